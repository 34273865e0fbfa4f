"""How the run before ended, as far as it left a trace: the stack that a fatal signal wrote, and the kernel's count of OOM kills."""

from __future__ import annotations

import faulthandler
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_VMSTAT = Path("/proc/vmstat")
_MOST = 256 * 1024


@dataclass(frozen=True, slots=True)
class Evidence:
    """`stack`: what a fatal signal left, "" without one. `oom_kills`: of the whole machine, since it was booted."""

    stack: str = ""
    oom_kills: int = 0

    @property
    def crashed(self) -> bool:
        return bool(self.stack)

    @property
    def words(self) -> str:
        """The stack's first line: `Fatal Python error: Segmentation fault`."""
        return self.stack.partition("\n")[0].strip()


def gather(stack: Path) -> Evidence:
    """Before `watch` empties the file."""
    text = ""
    with suppress(OSError), stack.open("rb") as file:
        text = file.read(_MOST).decode("utf-8", "replace")
    return Evidence(text, oom_kills())


def watch(stack: Path) -> None:
    """From now on a fatal signal (SIGSEGV, SIGBUS, SIGFPE, SIGILL, a watchdog's SIGABRT) writes every thread's stack there."""
    descriptor = os.open(stack, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    faulthandler.enable(descriptor)  # the descriptor stays open as long as the process lives


def oom_kills() -> int:
    with suppress(OSError, ValueError):
        for line in _VMSTAT.read_text("ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
