"""What the format checks share: the answer they give, and bounded random reads of an open file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

BLOCK = 64 * 1024
SWEEP = 1024 * 1024
MAX_ZERO_SWEEP = 64 * 1024 * 1024


class Grade(StrEnum):
    COMPLETE = "complete"
    SUSPECT = "suspect"
    INCOMPLETE = "incomplete"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Structure:
    """What the structure says. `at`: the byte where it breaks; when that moves, the file is still growing. `why`: for the technician."""

    grade: Grade
    at: int = 0
    why: str = ""

    @classmethod
    def complete(cls) -> Structure:
        return _COMPLETE


_COMPLETE = Structure(Grade.COMPLETE)


class Window:
    """Random reads of an open file through one cached block; a read past the end is short, never an error."""

    def __init__(self, fd: int, size: int, tick: Callable[[], None] = lambda: None) -> None:
        self.fd, self.size, self._tick = fd, size, tick
        self._start, self._block = 0, b""

    def at(self, offset: int, length: int) -> bytes:
        start = offset - self._start
        if start >= 0 and start + length <= len(self._block):
            return self._block[start : start + length]
        self._start, self._block = offset, self.sweep(offset, max(length, BLOCK))
        return self._block[:length]

    def sweep(self, offset: int, length: int) -> bytes:
        """Uncached: for passes over much data."""
        self._tick()
        length = min(length, self.size - offset)
        parts: list[bytes] = []
        while length > 0 and (part := os.pread(self.fd, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def zeros_from(self) -> int:
        """Where the run of zeros at the end of the file begins (`size` when there is none); looks back 64 MiB at most."""
        end, step = self.size, 4096
        lowest = max(0, self.size - MAX_ZERO_SWEEP)
        while end > lowest:
            start = max(lowest, end - step)
            if kept := len(self.sweep(start, end - start).rstrip(b"\0")):
                return start + kept
            end, step = start, min(step * 4, SWEEP)
        return end


def cut(window: Window, what: str) -> Structure:
    """The file ends too early, or its tail is still zeros: the break is after the last byte that was written."""
    at = window.zeros_from()
    tail = "it ends" if at == window.size else "only zeros follow"
    return Structure(Grade.INCOMPLETE, at, f"{what}: {tail} at byte {at}")


def broken(window: Window, at: int, what: str) -> Structure:
    """Unexpected bytes at `at`: zeros are a tail not written yet, anything else is for the decoder to reject."""
    if not window.at(at, 8).strip(b"\0") or window.zeros_from() <= at + 16:
        return cut(window, what)
    return Structure(Grade.UNKNOWN, at, f"{what} at byte {at}")


def zero_tail(window: Window, end: int, length: int) -> int | None:
    """Where the zeros begin that fill the end of pixel data (`length` bytes up to `end`), when they are too many to be chance."""
    if end < window.size and window.sweep(window.size - 1, 1) != b"\0":
        return None
    at = window.zeros_from()
    return at if end - at >= max(16, min(64, length // 8)) else None


def suspect(at: int) -> Structure:
    return Structure(Grade.SUSPECT, at, f"the pixels from byte {at} on are zeros: black, or not written yet")
