"""The directories of one camera: which to list at a poll, and what the listings show.

Invariants
- The listing is the truth. A directory is listed when its mtime moved, and as long as that mtime is younger than 3 s. Its age is counted
  from when it was first seen, on our monotonic clock: by then at least as much time has passed on the share's own clock.
- The reconcile pass lists everything and stats every known file; a new name under an unmoved mtime means that this share's mtimes cannot be
  trusted, and from then on every poll lists.
- Known names of a directory that could not be listed to its end are never called missing.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edged.config import WatchMode
from edged.intake.folder import Folder
from edged.intake.known import LISTED, KnownNames, Roll, stamp
from edged.intake.looking import Glance, Listing, Place, stats
from edged.intake.watches import Watches
from edged.nouns import display_name

YOUNG_S = 3.0
PIECE = 4096
STAT_PIECE = 2048
GLANCES = 512
_GONE = (errno.ENOENT, errno.ENOTDIR)


class Finder(Protocol):
    """Takes what listings find."""

    async def found(self, paths: Sequence[bytes]) -> None: ...
    async def revisit(self, paths: Sequence[bytes]) -> None: ...
    def taken(self, path: bytes) -> bool: ...


class Company(Protocol):
    """Takes what a listing shows that is no image."""

    async def listed(self, paths: Sequence[bytes]) -> None: ...


@dataclass(slots=True)
class Directory:
    """`path` below the folder, b"" for the folder itself. `quiet`: listed since its mtime grew old; nothing new can be in it."""

    path: bytes
    known: KnownNames = field(default_factory=KnownNames)
    place: Place | None = None
    mtime_ns: int = -1
    first_seen: float = 0.0
    quiet: bool = False
    ignored: int = 0

    def child(self, name: str) -> bytes:
        return self.path + b"/" + os.fsencode(name) if self.path else os.fsencode(name)


class Tree:
    """`between` is awaited between the pieces of long work, so that what is new is not kept waiting by what is old."""

    def __init__(self, folder: Folder, watches: Watches, finder: Finder, between: Callable[[], Awaitable[None]]) -> None:
        self._folder, self._watches, self._finder, self._between = folder, watches, finder, between
        self.directories: dict[bytes, Directory] = {b"": Directory(b"")}
        self.company: Company | None = None
        self.mtimes_lie = False
        self.unlistable: dict[bytes, str] = {}
        self.reconcile_took_s = 0.0
        self._reconciled = time.monotonic()
        self._root_fresh = False

    def known_of(self, path: bytes) -> tuple[KnownNames, str]:
        """The table a path belongs to, and its name there."""
        directory, _, name = path.rpartition(b"/")
        entry = self.directories.get(directory)
        if entry is None:
            entry = self.directories[directory] = Directory(directory)
        return entry.known, os.fsdecode(name)

    def list_all(self) -> None:
        """Something was missed: list every directory at the next poll, whatever its mtime says."""
        for directory in self.directories.values():
            directory.mtime_ns, directory.quiet = -1, False

    def start_over(self) -> None:
        """Something may have been missed altogether: list everything, and stat everything that is known."""
        self.list_all()
        self._reconciled = float("-inf")

    async def poll(self) -> None:
        """One pass over the directories. Raises Unavailable when the folder is away."""
        if await self._folder.check():
            self._watches.disarm_all()
            self.list_all()
        if self._folder.mode is WatchMode.INOTIFY:
            await self._watches.arm(b"")
        pending = deque(self.directories)
        queued = set(pending)
        while pending:
            batch = [pending.popleft() for _ in range(min(GLANCES, len(pending)))]
            for path, glance in zip(batch, await self._folder.glances(batch), strict=True):
                await self._glanced(self.directories[path], glance)
            found = [path for path in self.directories if path not in queued]  # by the listings just made
            pending.extend(found)
            queued.update(found)
        if time.monotonic() - self._reconciled >= self._folder.camera.reconcile_s:
            await self._reconcile()

    async def _glanced(self, directory: Directory, glance: Glance) -> None:
        now = time.monotonic()
        if glance.error:
            await self._unreachable(directory, glance.error)
            return
        if directory.path and directory.place and self._folder.place and directory.place[0] != glance.place[0] == self._folder.place[0]:
            self.unlistable[directory.path] = "what was mounted here is not mounted any more"
            return
        if (above := self._once_more(directory.path, glance.place)) is not None:
            self.unlistable[directory.path] = f"it is {display_name(above) or 'the folder'} once more, by a mount inside itself"
            return
        if directory.path and self._folder.mode is WatchMode.INOTIFY:
            await self._watches.arm(directory.path)
        if (glance.place, glance.mtime_ns) != (directory.place, directory.mtime_ns):
            directory.place, directory.mtime_ns, directory.first_seen, directory.quiet = glance.place, glance.mtime_ns, now, False
        if not directory.quiet or self.mtimes_lie:
            await self._list(directory, reconcile=False)
            directory.quiet = now - directory.first_seen >= YOUNG_S

    def _once_more(self, path: bytes, place: Place) -> bytes | None:
        """The directory above `path` that this place is: following such a loop would judge every image again."""
        while path:
            path = path.rpartition(b"/")[0]
            if path in self.directories and self.directories[path].place == place:
                return path
        return None

    async def _unreachable(self, directory: Directory, code: int) -> None:
        """Below the folder only. A directory that is gone takes its files with it; any other trouble is waited out."""
        if code not in _GONE:
            self.unlistable[directory.path] = os.strerror(code)
            return
        self._watches.disarm(directory.path)
        await self._finder.revisit([directory.child(name) for name in directory.known.names()])
        self.directories.pop(directory.path, None)
        self.unlistable.pop(directory.path, None)

    async def _reconcile(self) -> None:
        began = time.monotonic()
        for directory in list(self.directories.values()):
            await self._list(directory, reconcile=True)
        self._reconciled = time.monotonic()
        self.reconcile_took_s = self._reconciled - began

    async def _list(self, directory: Directory, *, reconcile: bool) -> None:
        roll = Roll(directory.known)
        listing: Listing | None = None
        try:
            listing = await self._folder.listing(directory.path, roll)
            fresh = await self._pieces(directory, listing, roll, reconcile=reconcile)
            missing = roll.missing()
        except OSError as error:
            if not directory.path:
                raise self._folder.away(error) from None
            await self._unreachable(directory, error.errno or errno.EIO)
            return
        finally:
            if listing is not None:
                listing.close()
        self.unlistable.pop(directory.path, None)
        if missing:
            await self._finder.revisit([directory.child(name) for name in missing])
        if reconcile and fresh and directory.quiet and not self.mtimes_lie:
            glance = (await self._folder.glances([directory.path]))[0]
            self.mtimes_lie = (glance.place, glance.mtime_ns) == (directory.place, directory.mtime_ns)

    async def _pieces(self, directory: Directory, listing: Listing, roll: Roll, *, reconcile: bool) -> int:
        """Returns how many new images the listing showed."""
        call, ignored, found, last = self._folder.thread.call, 0, 0, False
        company: list[bytes] = []
        while not last:
            names, fresh, below, last = await call(lambda: listing.piece(STAT_PIECE if reconcile else PIECE))
            for path in map(directory.child, below):
                if path not in self.directories and self._folder.selection.descends(path):
                    self.directories[path] = Directory(path)
            new = []
            for path in map(directory.child, fresh):
                if self._finder.taken(path):
                    continue
                if self._folder.selection.why_not(path) is None:
                    new.append(path)
                else:
                    ignored += 1
                    company.append(path)
            if company and self.company is not None:
                await self.company.listed(company)
                company.clear()
            found += len(new)
            if new:
                await self._finder.found(new)
            if reconcile:
                changed = await call(lambda names=names: _changed(self._folder, directory, names, roll))  # type: ignore[misc]
                if changed:
                    await self._finder.revisit([directory.child(name) for name in changed])
            if not last:
                await self._between()
        directory.ignored = ignored
        return found


def _changed(folder: Folder, directory: Directory, names: Sequence[str], roll: Roll) -> list[str]:
    """Stat the known names of one piece; those whose size or mtime is not the known one. In the folder's thread."""
    sizes = stats(folder.root, folder.place, directory.path, names)
    folder.thread.tick()
    stamps = [LISTED if each is None else stamp(*each) for each in sizes]
    return roll.changed(names, np.array(stamps, np.int64))
