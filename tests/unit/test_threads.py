"""Pools that are whole from the start, or not there."""

from __future__ import annotations

import subprocess
import sys

TOO_MANY = """
import resource, threading
from edged.threads import warm_pool
threading.stack_size(256 << 20)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (900 << 20),) * 2)  # three stacks, not eight
try:
    warm_pool(8, "worker")
except RuntimeError as error:
    print(error)
"""


def test_a_pool_that_cannot_be_whole_is_refused_and_leaves_nobody_who_keeps_the_process_from_ending() -> None:
    ended = subprocess.run([sys.executable, "-c", TOO_MANY], capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "can't start new thread"), ended.stderr
