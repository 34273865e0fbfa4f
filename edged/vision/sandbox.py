"""What a decoder process gives up before it sees its first image, and the environment it starts with."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from edged.vision import seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 48
_NOTES_BYTES = 1 << 20
_CPU_MARGIN_S = 2


def environment(max_pixels: int, max_side_px: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """A decoder's whole environment. Nothing else is inherited: the daemon's may hold secrets.

    OpenCV reads its limits once, at import. The malloc thresholds keep a frame's buffers instead of unmapping them (half the CPU of a
    small frame went into page faults).
    """
    kept = {name: inherited[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ") if name in inherited}
    return kept | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(max_pixels),
        "OPENCV_IO_MAX_IMAGE_WIDTH": str(max_side_px),
        "OPENCV_IO_MAX_IMAGE_HEIGHT": str(max_side_px),
        "OPENCV_LOG_LEVEL": "ERROR",
        "OPENCV_OPENCL_RUNTIME": "disabled",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }


def die_with(parent: int) -> None:
    """From now on this process ends when its parent does; ends it at once when the parent is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def restrict(memory_bytes: int) -> tuple[tuple[str, ...], str]:
    """Call after the imports: memory beyond what is mapped now, no cores, few files, first to be killed when memory is short, and only
    the system calls that reading and answering take. Returns what `seccomp.confine` says.

    SIGTERM and SIGINT reach the whole control group or terminal; the daemon alone says when a decoder ends (it closes the socket).
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, mapped + memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    # Only the parent raises this one again, as far as the rings that it hands out.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_NOTES_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with contextlib.suppress(OSError):  # a container may forbid it
        Path("/proc/self/oom_score_adj").write_text("800")
    layers, problem = seccomp.confine()
    if problem:
        _lower(resource.RLIMIT_NPROC, 0)  # at least no process; nor a thread, which a decoder does without
    return layers, problem


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (most, most))


def allow_file_bytes(pid: int, nbytes: int) -> None:
    """By the parent: how far process `pid` may write. A ring lies in memory that everybody shares; it must not grow."""
    with contextlib.suppress(OSError):  # it has ended, or a container forbids it
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(nbytes, _NOTES_BYTES), resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))


def allow_cpu_s(pid: int, seconds: float) -> None:
    """By the parent: this much time of a processor from now on; more ends it (SIGXCPU), whether or not anybody looks."""
    with contextlib.suppress(OSError):
        used = time.clock_gettime(~pid << 3 | 2)  # its CPU clock, as clock_getcpuclockid() makes it
        soft = int(used + seconds) + _CPU_MARGIN_S
        resource.prlimit(pid, resource.RLIMIT_CPU, (soft, resource.prlimit(pid, resource.RLIMIT_CPU)[1]))


def tried() -> tuple[tuple[str, ...], str]:
    """What a process made for this question could give up: for `edged doctor`."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=20,
        env=environment(1, 1, os.environ),
    )
    layers, _, problem = done.stdout.strip().partition(":")
    if done.returncode != 0 or not (layers or problem):
        return (), f"a decoder process does not start: {done.stderr.strip().rpartition(chr(10))[2] or done.returncode}"
    return tuple(layers.split()), problem


if __name__ == "__main__":
    die_with(os.getppid())
    held, missing = restrict(1 << 28)
    print(" ".join(held), missing, sep=":")  # noqa: T201
