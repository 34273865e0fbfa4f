"""Ports and processes that a rig owns."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def listening(port: int, host: str = LOOPBACK) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, port)) == 0


def wait_until(true: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Returns as soon as `true()` holds; AssertionError naming `what` after `timeout_s`. Blocks: in a coroutine use asyncio's own means."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s still waiting until {what}")
        time.sleep(0.01)


def in_main_thread() -> bool:
    """A death signal follows the thread that started the process: only the main thread lives as long as the tests."""
    return threading.current_thread() is threading.main_thread()


def with_parent(command: Sequence[str]) -> list[str]:
    """The command, told by the kernel to end when the tests are killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv and in_main_thread() else list(command)


def freeze(pid: int) -> None:
    """SIGSTOP, and returns only when every thread of the process stands: a busy one goes on for a moment."""

    def stands() -> bool:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(") ")[2].startswith("T") for thread in threads)

    os.kill(pid, signal.SIGSTOP)
    wait_until(stands, 5, f"process {pid} stands still")


def wait_gone(process: subprocess.Popen[str] | subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
