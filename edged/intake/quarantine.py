"""Copies of images that could not be judged, kept in the state directory below a cap; the oldest copies make room."""

# ruff: noqa: PTH108, PTH116
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from edged.failpoints import reach
from edged.intake.renaming import copy_new, make_directories, rename_new, sync_directory

_SUFFIX = re.compile(rb"\.[A-Za-z0-9]{1,8}\Z")


class Quarantine:
    """`{folder}/{id}{suffix}`; used from several folders' threads, which only ever add and remove whole files."""

    def __init__(self, folder: Path, cap_bytes: int) -> None:
        self._folder, self._cap_bytes = folder, cap_bytes

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
        """Copy an image in; None when it alone is above the cap. Raises OSError. Repeated for the same id, it is kept once."""
        target = self.path_of(result_id, source)
        if target.exists():
            sync_directory(os.fsencode(self._folder))  # a crash may have come before this
            return target
        size = os.stat(source, follow_symlinks=False).st_size
        if size > self._cap_bytes:
            return None
        make_directories(os.fsencode(self._folder), 0o750)
        self._make_room(size)
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

    def _make_room(self, size: int) -> None:
        copies = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    copies.append((facts.st_ctime_ns, facts.st_size, entry.path))
        total = sum(copy[1] for copy in copies)
        for _, freed, path in sorted(copies):
            if total + size <= self._cap_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= freed
