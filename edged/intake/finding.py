"""Where the bytes of a judged file are now: its copy in quarantine, its folder, or where `after` has put it.

Invariants
- A file counts only by its whole content: size and sha256 as recorded. Nothing is changed, moved or followed.
- "Not there" is said only of places that could be looked at; a place that does not answer is Unavailable.
"""

# ruff: noqa: PTH116, PTH118, PTH119, PTH120
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edged.intake.disposal import others
from edged.intake.renaming import sha256_of

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Sought:
    """A judged file: `places` are paths below the camera's folder, each with where the file was moved to (text); `ids` its results'."""

    size: int
    sha256: str
    places: Sequence[tuple[bytes, str | None]]
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Found:
    """It lies at `path` in `folder`. `kept`: that is its copy in quarantine."""

    folder: str
    path: bytes
    mtime_ns: int
    inode: int
    kept: bool = False


def places_of(root: bytes, sought: Sought) -> Iterator[bytes]:
    """Where it may lie outside quarantine, likeliest first."""
    for path, moved_to in sought.places:
        yield os.path.join(root, path)
        # A disposal may be under way, or have been left half-way by a crash.
        yield from (os.path.join(root, os.path.dirname(path), b".edged-" + id_.encode()) for id_ in sought.ids)
        if moved_to is not None:
            # What the ledger has is text for people: of a name that is no text only the folder can be taken from it.
            shelf, name = os.path.dirname(os.fsencode(moved_to)), os.path.basename(path)
            yield os.fsencode(moved_to)
            yield os.path.join(shelf, name)
            yield from (os.path.join(shelf, other) for id_ in sought.ids for other in others(name, id_))


def first_of(paths: Iterator[bytes], sought: Sought, tick: Callable[[], None], *, kept: bool = False) -> Found | None:
    """The first that has the sought content. Raises OSError when one of them could not be looked at and none had it."""
    trouble: OSError | None = None
    for path in paths:
        try:
            found = _look(path, sought, tick, kept)
        except OSError as error:
            trouble = trouble if error.errno in _NOT_THERE else error
            continue
        if found is not None:
            return found
    if trouble is not None:
        raise trouble
    return None


def _look(path: bytes, sought: Sought, tick: Callable[[], None], kept: bool) -> Found | None:
    before = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode) or before.st_size != sought.size or sha256_of(path, tick) != sought.sha256:
        return None
    after = os.stat(path, follow_symlinks=False)
    if (before.st_ino, before.st_mtime_ns, before.st_size) != (after.st_ino, after.st_mtime_ns, after.st_size):
        return None
    return Found(os.fsdecode(os.path.dirname(path)), os.path.basename(path), after.st_mtime_ns, after.st_ino, kept)
