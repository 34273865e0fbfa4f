"""What a folder's thread does with the folder: list, stat, examine. Every function here may block and may raise OSError.

All paths are bytes below the camera's folder and are opened relative to one descriptor of it, so that a mount that changes under a batch
cannot mix two folders. Nothing is followed: a symbolic link is seen as one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edged.intake.completeness import check
from edged.intake.known import Roll
from edged.intake.settle import Stamp
from edged.intake.window import Structure

Place = tuple[int, int]
"""(device, inode) of a directory: another one under the same path is another place."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at one path. `error`: errno of the stat; `open_error`: errno when it could not be opened to be examined.

    `changed_ns`: its ctime, which nobody can set.
    """

    path: bytes
    stamp: Stamp = (0, 0, 0)
    mode: int = 0
    links: int = 1
    structure: Structure | None = None
    error: int = 0
    open_error: int = 0
    changed_ns: int = 0

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def what(self) -> str:
        """What an entry that is no regular file is."""
        kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO", stat.S_IFDIR: "directory", stat.S_IFSOCK: "socket"}
        return kinds.get(stat.S_IFMT(self.mode), "device")


@dataclass(frozen=True, slots=True)
class Glance:
    """A directory's stat. `error`: errno when it could not be had."""

    place: Place = (0, 0)
    mtime_ns: int = 0
    error: int = 0


class Moved(OSError):  # noqa: N818 - it names what was found
    """Another directory lies under the folder's path than the one that was looked at before."""


@contextlib.contextmanager
def folder(root: bytes, place: Place | None) -> Iterator[int]:
    """A descriptor of the folder, closed again at once: holding it would keep its mount busy. Raises Moved."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        if place is not None and (facts.st_dev, facts.st_ino) != place:
            raise Moved("another directory lies there now")
        yield fd
    finally:
        os.close(fd)


def glances(root: bytes, place: Place | None, directories: Sequence[bytes]) -> list[Glance]:
    """The stat of the folder itself (b"") and of directories below it."""
    found = []
    with folder(root, place) as fd:
        for path in directories:
            try:
                facts = os.stat(path or b".", dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                found.append(Glance(error=error.errno or -1))
                continue
            found.append(Glance((facts.st_dev, facts.st_ino), facts.st_mtime_ns))
    return found


def changed(root: bytes, place: Place | None) -> int:
    """When the folder itself changed last."""
    with folder(root, place) as fd:
        facts = os.fstat(fd)
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def stats(root: bytes, place: Place | None, directory: bytes, names: Sequence[str]) -> list[tuple[int, int] | None]:
    """Size and mtime_ns of names in one directory; None where it is gone since, or unreadable: the next listing or look says which."""
    found: list[tuple[int, int] | None] = []
    with folder(root, place) as root_fd:
        fd = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root_fd)
        try:
            for name in names:
                try:
                    facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    found.append(None)
                else:
                    found.append((facts.st_size, facts.st_mtime_ns))
        finally:
            os.close(fd)
    return found


Wanted = tuple[bytes, Stamp | None]
"""A path, and the stamp that makes its structure worth examining."""


def look(root: bytes, place: Place | None, wanted: Sequence[Wanted], holes_tell: bool, tick: Callable[[], None]) -> list[Sight]:
    """Look at paths in order; the structure is examined where the stamp is still the one given."""
    found = []
    with folder(root, place) as fd:
        for path, examine in wanted:
            tick()
            found.append(_look(fd, path, examine, holes_tell, tick))
    return found


def _look(folder_fd: int, path: bytes, examine: Stamp | None, holes_tell: bool, tick: Callable[[], None]) -> Sight:
    try:
        facts = os.stat(path, dir_fd=folder_fd, follow_symlinks=False)
    except OSError as error:
        return Sight(path, error=error.errno or -1)
    stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    sight = Sight(path, stamp, facts.st_mode, facts.st_nlink, changed_ns=facts.st_ctime_ns)
    if examine != stamp or not sight.regular:
        return sight
    try:
        # Opened without blocking and without following: what was a file a moment ago may be a FIFO or a link by now.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError as error:
        return replace(sight, open_error=error.errno or -1)
    try:
        structure = check(fd, facts.st_size, holes_tell=holes_tell, tick=tick)
        after = os.fstat(fd)
    except OSError as error:
        return replace(sight, open_error=error.errno or -1)
    finally:
        os.close(fd)
    return Sight(path, (after.st_size, after.st_mtime_ns, after.st_ino), after.st_mode, after.st_nlink, structure)


class Listing:
    """One pass over one directory, a piece at a time; the descriptor lives no longer than the pass."""

    def __init__(self, root: bytes, place: Place | None, directory: bytes, roll: Roll, subdirectories: bool) -> None:
        self._roll, self._subdirectories = roll, subdirectories
        self.listed = 0
        with folder(root, place) as fd:
            self._fd = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            self._entries = os.scandir(self._fd)
        except OSError:
            os.close(self._fd)
            raise

    def piece(self, count: int) -> tuple[list[str], list[str], list[str], bool]:
        """(names, those not known, subdirectories, whether it was the last piece)."""
        entries = list(islice(self._entries, count))
        self.listed += len(entries)
        directories = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)] if self._subdirectories else []
        below = frozenset(directories)
        names = [entry.name for entry in entries if entry.name not in below] if below else [entry.name for entry in entries]
        return names, self._roll.call(names), directories, len(entries) < count

    def close(self) -> None:
        self._entries.close()
        os.close(self._fd)
