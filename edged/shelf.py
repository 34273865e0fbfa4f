"""Files that are kept for a while: below an age, a number and a size. The oldest make room.

Invariants
- Nothing goes but regular files below the folder; links are not followed, names that begin with a dot are somebody's work in progress.
- Without a limit nothing goes. What cannot be deleted stays, and is tried again at the next round.
- Age is told by `Cautious`: no step of the system clock makes files old.

Everything here may block as long as the file system does: call it in a thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DAY_S: Final = 86_400.0
AWAY_CAP_S: Final = 7 * DAY_S
CATCH_UP: Final = 24.0
BUDGET_S: Final = 0.5
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Limits:
    """None does not limit."""

    days: float | None = None
    files: int | None = None
    bytes: int | None = None

    @property
    def none(self) -> bool:
        return self.days is None and self.files is None and self.bytes is None

    def exceeded(self, files: int, size: int) -> bool:
        return (self.files is not None and files > self.files) or (self.bytes is not None and size > self.bytes)


class Cautious:
    """The time for deciding that a file is old. At a start it is at most a week past the newest file; then it follows the wall clock
    forward no faster than a day an hour, and backward at once."""

    def __init__(self, newest: float | None, wall: Clock = time.time, since_boot: Clock | None = None) -> None:
        self._wall, self._since_boot = wall, since_boot or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._now = wall() if newest is None else min(wall(), newest + AWAY_CAP_S)
        self._at = self._since_boot()

    def now(self) -> float:
        boot = self._since_boot()
        self._now, self._at = min(self._wall(), self._now + CATCH_UP * (boot - self._at)), boot
        return self._now


class Shelf:
    """One flat folder, whose files are as old as their last change of status (copied, renamed into place)."""

    def __init__(self, folder: Path, limits: Limits, *, wall: Clock = time.time, since_boot: Clock | None = None) -> None:
        self.folder, self._limits, self._wall, self._since_boot = folder, limits, wall, since_boot
        self._clock: Cautious | None = None

    def make_room(self, size: int = 0, files: int = 0) -> int:
        """Deletes what is too old, and the oldest until `files` more of `size` bytes in all fit; returns how many went. OSError."""
        if self._limits.none:
            return 0
        there = sorted(_files(os.fspath(self.folder)))
        self._clock = self._clock or Cautious(there[-1][0] if there else None, self._wall, self._since_boot)
        limit = None if self._limits.days is None else self._clock.now() - self._limits.days * DAY_S
        count, total, gone = len(there) + files, sum(each[1] for each in there) + size, 0
        for changed, its_size, path in there:
            if not self._limits.exceeded(count, total) and (limit is None or changed >= limit):
                break
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
                count, total, gone = count - 1, total - its_size, gone + 1
        return gone


class DatedShelf:
    """Folders by day, `YYYY-MM-DD`, with whatever lies below them. Everything else in the folder is left alone.

    A folder is listed again only when its mtime has moved: a million judged images cost a look at their folders.
    """

    def __init__(self, folder: Path, limits: Limits, *, wall: Clock = time.time, since_boot: Clock | None = None) -> None:
        self.folder, self._limits, self._wall, self._since_boot = folder, limits, wall, since_boot
        self._clock: Cautious | None = None
        self._seen: dict[str, tuple[int, int, int]] = {}
        """directory -> mtime (ns), files, bytes of its own files"""

    def prune(self, tick: Callable[[], None] = lambda: None, budget_s: float = BUDGET_S) -> tuple[int, bool]:
        """How many files went, and whether there is more to do. OSError: the folder cannot be listed."""
        if self._limits.none or not self.folder.is_dir():
            return 0, False
        days = sorted(entry.name for entry in os.scandir(self.folder) if _DAY.match(entry.name) and entry.is_dir(follow_symlinks=False))
        ends = {day: end for day in days if (end := _end_of(day)) is not None}
        if not ends:
            return 0, False
        self._clock = self._clock or Cautious(max(ends.values()), self._wall, self._since_boot)
        now, until, gone = self._clock.now(), time.monotonic() + budget_s, 0
        counted = self._limits.files is not None or self._limits.bytes is not None
        files, size = self._totals(list(ends), tick) if counted else (0, 0)
        newest = max(ends)
        for day, end in ends.items():
            old = self._limits.days is not None and now - end > self._limits.days * DAY_S
            if not old and not self._limits.exceeded(files, size):
                break
            for path, its_size in self._oldest_first(day):
                if not old and not self._limits.exceeded(files, size):
                    return gone, False
                if time.monotonic() > until:
                    return gone, True
                tick()
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108
                    files, size, gone = files - 1, size - its_size, gone + 1
            if day != newest:
                self._remove_empty(day)
        return gone, False

    def _totals(self, days: list[str], tick: Callable[[], None]) -> tuple[int, int]:
        seen: dict[str, tuple[int, int, int]] = {}
        for day in days:
            for directory in _directories(os.path.join(self.folder, day)):  # noqa: PTH118
                tick()
                mtime = os.stat(directory, follow_symlinks=False).st_mtime_ns  # noqa: PTH116
                known = self._seen.get(directory)
                if known is None or known[0] != mtime:
                    sizes = [size for _, size, _ in _files(directory)]
                    known = mtime, len(sizes), sum(sizes)
                seen[directory] = known
        self._seen = seen
        return sum(each[1] for each in seen.values()), sum(each[2] for each in seen.values())

    def _oldest_first(self, day: str) -> Iterator[tuple[str, int]]:
        there = [file for directory in _directories(os.path.join(self.folder, day)) for file in _files(directory)]  # noqa: PTH118
        yield from ((path, size) for _, size, path in sorted(there))

    def _remove_empty(self, day: str) -> None:
        for directory in reversed(list(_directories(os.path.join(self.folder, day)))):  # noqa: PTH118
            with suppress(OSError):
                os.rmdir(directory)  # noqa: PTH106


def _end_of(day: str) -> float | None:
    """When it was over, in seconds since 1970."""
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + DAY_S
    except ValueError:
        return None


def _files(directory: str) -> Iterator[tuple[float, int, str]]:
    """(changed, size, path) of its regular files."""
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                yield facts.st_ctime, facts.st_size, entry.path


def _directories(top: str) -> Iterator[str]:
    """`top` and everything below it, parents first."""
    yield top
    below: list[str] = []
    with suppress(FileNotFoundError), os.scandir(top) as entries:
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for directory in below:
        yield from _directories(directory)
