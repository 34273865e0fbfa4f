"""Copies of images that could not be judged, kept in the state directory for a while; the oldest copies make room."""

# ruff: noqa: PTH108, PTH116
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from edged.errors import Unavailable
from edged.failpoints import reach
from edged.intake.renaming import copy_new, make_directories, rename_new, sync_directory
from edged.shelf import Limits, Shelf

_SUFFIX = re.compile(rb"\.[A-Za-z0-9]{1,8}\Z")


class Quarantine:
    """`{folder}/{id}{suffix}`; used from several folders' threads, which only ever add and remove whole files."""

    def __init__(self, folder: Path, limits: Limits, min_free_bytes: int = 0) -> None:
        self._folder, self._limits, self._min_free_bytes = folder, limits, min_free_bytes
        self._shelf = Shelf(folder, limits)

    def path_of(self, result_id: str, name: bytes) -> Path:
        match = _SUFFIX.search(name)
        return self._folder / f"{result_id}{match.group().decode().lower() if match else ''}"

    def kept(self) -> dict[str, tuple[int, float]]:
        """The copies by id: size, and when each was made (s). Reads the folder."""
        copies: dict[str, tuple[int, float]] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    copies[entry.name.partition(".")[0]] = (facts.st_size, facts.st_ctime)
        return copies

    def keep(self, source: bytes, result_id: str, tick: Callable[[], None]) -> Path | None:
        """Copy an image in; None when it alone is above the limits. Raises OSError. Repeated for the same id, it is kept once."""
        target = self.path_of(result_id, source)
        if target.exists():
            sync_directory(os.fsencode(self._folder))  # a crash may have come before this
            return target
        size = os.stat(source, follow_symlinks=False).st_size
        if self._limits.exceeded(1, size):
            return None
        make_directories(os.fsencode(self._folder), 0o750)
        self._shelf.make_room(size, 1)
        self._leave_free(size)
        partial = os.fsencode(self._folder / f".{result_id}.part")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)  # left by a crash
        copy_new(source, partial, tick)
        reach("quarantine.copied")
        try:
            rename_new(partial, os.fsencode(target))
        except FileExistsError:
            os.unlink(partial)
        sync_directory(os.fsencode(self._folder))
        reach("quarantine.kept")
        return target

    def prune(self) -> int:
        """Copies that are too old go; returns how many. OSError."""
        return self._shelf.make_room()

    def _leave_free(self, size: int) -> None:
        """The ledger needs the disk more: without room beyond what must stay free nothing is copied."""
        seen = os.statvfs(self._folder)
        if seen.f_bavail * seen.f_frsize < self._min_free_bytes + size:
            raise OSError(errno.ENOSPC, "the copy would leave less than [ledger] min_free_bytes free", os.fspath(self._folder))


def unreadable(error: OSError) -> Unavailable:
    """The quarantine lies on the state directory's disk."""
    return Unavailable("the quarantine", error.strerror or str(error), "See that the daemon's user can read it, and look at the disk.")
