"""How much room is left where the ledger lies, how long it will last, and what that means."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from edged.ledger.ballast import Ballast
from edged.nouns import Board, HealthStatus

SAMPLE_S: Final = 10.0
SAMPLES: Final = 90
MIN_INODES: Final = 8
"""Fewer free inodes, and not even a rejected image can be copied to quarantine."""
LITTLE_BYTES: Final = 256 * 1024
HINT: Final = "Free space on this disk, or lower [ledger] retain_bytes; images wait in their folders until then."


class Room(StrEnum):
    """`tight`: judging stops soon; `short`: below min_free_bytes; `full`: the disk has refused a write; `inodes`: no names are left."""

    OK = "ok"
    TIGHT = "tight"
    SHORT = "short"
    FULL = "full"
    INODES = "inodes"


class Space:
    """`short`: nothing more is judged. Everything that is on the disk counts, whoever wrote it: ledger, quarantine, other programs."""

    def __init__(self, folder: Path, min_free_bytes: int, board: Board, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._min_free, self._board, self._monotonic = folder, min_free_bytes, board, monotonic
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES + 1)
        self._ballast = Ballast(folder)
        self.room = Room.OK
        self.cause = ""
        self.free_bytes: int | None = None
        self.hours_left: float | None = None
        self.wanted_bytes = 0
        """So much must become free before there is room enough, with something to spare; 0 while there is."""

    @property
    def short(self) -> bool:
        return self.room in (Room.SHORT, Room.FULL, Room.INODES)

    def refused(self, error: Exception) -> None:
        """A write has failed. On a full disk the ballast goes, so that what makes room can be written."""
        full = isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        full = full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
        if full or self._used_up():
            self._ballast.give_up()
            self.room, self.cause = Room.FULL, f"The disk of {self._folder} is full: nothing more is judged."

    def _used_up(self) -> bool:
        """Some of SQLite's errors hide that there was no room."""
        try:
            seen = os.statvfs(self._folder)
        except OSError:
            return False
        return seen.f_bavail * seen.f_frsize < LITTLE_BYTES

    def look(self) -> None:
        """May block as long as the disk does; called in the writer's thread."""
        try:
            seen = os.statvfs(self._folder)
        except OSError as error:
            self._board.report("disk", HealthStatus.UNKNOWN, f"The free space of {self._folder} cannot be told: {error.strerror}.")
            return
        free = self.free_bytes = seen.f_bavail * seen.f_frsize
        self.hours_left = self._hours_left(free)
        self._ballast.keep(seen.f_blocks * seen.f_frsize, free, self._min_free)
        goal = self._min_free * 3 // 2 + self._ballast.needs_bytes(seen.f_blocks * seen.f_frsize)
        self.wanted_bytes = max(0, goal - free)
        inodes = seen.f_favail if seen.f_files else None  # some file systems make them as they need them
        self.room = self._judged(free, inodes)
        self._tell(free, inodes)

    def _judged(self, free: int, inodes: int | None) -> Room:
        if self._ballast.given_up:
            return Room.FULL
        if free < self._min_free:
            return Room.SHORT
        if inodes is not None and inodes < MIN_INODES:
            return Room.INODES
        return Room.TIGHT if free < 2 * self._min_free else Room.OK

    def _tell(self, free: int, inodes: int | None) -> None:
        facts: dict[str, Any] = {
            "state": self.room,
            "free_bytes": free,
            "min_free_bytes": self._min_free,
            "hours_left": self.hours_left,
            "free_inodes": inodes,
        }
        status, hint = HealthStatus.DOWN, HINT
        if self.room is Room.FULL:
            self.cause = f"The disk of {self._folder} is full ({_mb(free)} free): nothing is judged; what is recorded is still delivered."
        elif self.room is Room.SHORT:
            self.cause = f"Only {_mb(free)} are free in {self._folder}; nothing is judged below {_mb(self._min_free)}."
        elif self.room is Room.INODES:
            self.cause = f"Only {inodes} more files can be made in {self._folder} (no inodes are left), so nothing is judged."
            hint = "Delete files on this disk; images wait in their folders until then."
        elif self.room is Room.TIGHT:
            when = f", at the present rate in {self.hours_left:.1f} h" if self.hours_left is not None else ""
            self.cause = f"{_mb(free)} are free in {self._folder}; judging stops below {_mb(self._min_free)}{when}."
            status, hint = HealthStatus.DEGRADED, "Free space on this disk, or lower [ledger] retain_bytes."
        else:
            self.cause, status, hint = "", HealthStatus.OK, ""
        self._board.report("disk", status, self.cause, hint, **facts)

    def _hours_left(self, free: int) -> float | None:
        """Until judging stops, by how the free space shrank in the last quarter of an hour; None while it does not."""
        now = self._monotonic()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, free))
        (then, before) = self._samples[0]
        lost = before - free
        if lost <= 0 or now - then < SAMPLE_S:
            return None
        return round(max(0, free - self._min_free) / (lost / (now - then)) / 3600, 1)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
