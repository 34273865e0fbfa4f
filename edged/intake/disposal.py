"""What happens to a judged file: keep, move to a dated folder, or delete. For a folder's thread; always after the commit.

Invariants
- Nothing is ever replaced: every rename is to a name that is new.
- The file is taken aside as `.edged-{id}` in its own folder first, and goes on only if it is the judged one: size, mtime, inode, and the
  sha256 where the inode is not known or the file is to be deleted. Another file (the tool re-used the name) goes back unharmed.
- Every step may be repeated after a crash: the ledger keeps the row until `disposed` is told. A move that is taken up on another day ends
  in the dated folder in which it began: what it left there is not left behind.
- Each rename is followed by an fsync of every directory that it changed, and what the file holds is synced before it goes on; across
  file systems copy, fsync, compare, unlink.
"""

# ruff: noqa: PTH108, PTH112, PTH113, PTH116, PTH118, PTH119, PTH120, PTH122, PTH208
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from edged.config import After, Camera
from edged.failpoints import reach
from edged.intake.renaming import copy_new, make_directories, rename_new, sha256_of, sync_directory, sync_file
from edged.intake.sidecar import SUFFIXES, names_beside

MAX_SHELVES = 1000


class Outcome(StrEnum):
    KEPT = "kept"
    MOVED = "moved"
    DELETED = "deleted"
    REPLACED = "replaced"  # the name holds another file by now, which stays and is judged
    GONE = "gone"  # somebody else took the file away


@dataclass(frozen=True, slots=True)
class Pending:
    """One judged file. `inode` None: not known any more (after a restart). `sha256` empty: judged just now, the inode proves it.

    `verdict` and `reason` as recorded, "" when not told.
    """

    path: bytes
    size: int
    mtime_ns: int
    sha256: str
    id: str
    verdict: str = ""
    reason: str = ""
    inode: int | None = None


@dataclass(frozen=True, slots=True)
class Disposed:
    """`new_path` as text for people, where the file is now; `returned`: the path of a file that went back, to be looked at."""

    outcome: Outcome
    new_path: str | None = None
    returned: bytes | None = None


class Disposal:
    """One camera's way with judged files. `now` gives the date of the dated folder."""

    def __init__(self, camera: Camera, now: Callable[[], datetime], tick: Callable[[], None]) -> None:
        self._camera, self._now, self._tick = camera, now, tick
        self._root = os.fsencode(camera.folder)
        self._move_to = os.fsencode(camera.effective_move_to)
        self._durable: set[bytes] = set()
        self._begun: dict[str, bytes] = {}  # id -> the day of a move that failed on its way

    def dispose(self, file: Pending) -> Disposed:
        """Begin or resume. Raises OSError (read-only, no permission, no space): the file then stays where it is."""
        if self._camera.after is After.KEEP:
            return Disposed(Outcome.KEPT)
        path = os.path.join(self._root, file.path)
        directory = os.path.dirname(path)
        aside = os.path.join(directory, b".edged-" + file.id.encode())
        # Whatever can fail without touching the file comes first.
        day = self._day(file, resumed=os.path.lexists(aside)) if self._camera.after is After.MOVE else b""
        shelf = self._shelf(file, day) if day else b""
        if os.path.lexists(aside) and os.path.lexists(path):
            self._end_half_a_rename(path, aside, file)
        if not os.path.lexists(aside):
            if not os.path.lexists(path):
                return self._found_elsewhere(file)
            if not self._same_stat(path, file):
                return Disposed(Outcome.REPLACED)
            rename_new(path, aside)
            sync_directory(directory)
            reach("disposal.aside", file.path)
        try:
            if not self._judged(aside, file):
                return Disposed(Outcome.REPLACED, returned=self._give_back(aside, file))
            done = self._finish(aside, path, shelf, file)
            self._begun.pop(file.id, None)
            return done
        except OSError:
            self._begun[file.id] = day
            # Not hidden under our name while it waits for another try; when its name is taken by now, it stays aside.
            with contextlib.suppress(OSError):
                rename_new(aside, path)
                sync_directory(directory)
            raise

    def _end_half_a_rename(self, path: bytes, aside: bytes, file: Pending) -> None:
        """Where renaming is made of two steps, a crash may have come between them."""
        facts = os.stat(aside, follow_symlinks=False)
        if facts.st_size == 0 < file.size:
            os.unlink(aside)  # only the name was reserved
        elif facts.st_nlink > 1 and os.path.samestat(facts, os.stat(path, follow_symlinks=False)):
            os.unlink(path)  # it has both names
            sync_directory(os.path.dirname(path))

    def sidecar_follows(self, path: bytes, moved_to: str | None) -> None:
        """One that came after its image was moved to `moved_to`, or deleted."""
        if self._camera.after is After.MOVE and moved_to is not None:
            self._sidecars(os.path.join(self._root, path), os.path.dirname(os.fsencode(moved_to)))
        elif self._camera.after is After.DELETE:
            self._sidecars(os.path.join(self._root, path), None)

    def _day(self, file: Pending, *, resumed: bool) -> bytes:
        """Today, or the day on which the move of this file began."""
        begun = self._begun.get(file.id)
        if begun is None and resumed:
            traces = (
                day
                for day, target in self._places(file)
                if self._is_there(target, file) or os.path.lexists(os.path.join(os.path.dirname(target), _partial(file)))
            )
            begun = next(traces, None)
        return begun or self._now().strftime("%Y-%m-%d").encode()

    def _places(self, file: Pending) -> Iterator[tuple[bytes, bytes]]:
        """Where it may have been moved to, with the day; the newest first."""
        directory, name = os.path.split(file.path)
        for day in sorted(os.listdir(self._move_to), reverse=True) if os.path.isdir(self._move_to) else []:
            for candidate in (name, *others(name, file.id)):
                yield day, os.path.join(self._move_to, day, directory, candidate)

    def _shelf(self, file: Pending, day: bytes) -> bytes:
        shelf = os.path.join(self._move_to, day, os.path.dirname(file.path))
        make_directories(shelf, 0o770)
        if shelf not in self._durable:
            # One that was there already may not be durable: a crash came between its making and the sync.
            above = shelf
            while len(above) >= len(self._move_to):
                above = os.path.dirname(above)
                sync_directory(above)
            self._durable = {shelf, *(self._durable if len(self._durable) < MAX_SHELVES else ())}
        return shelf

    def _finish(self, aside: bytes, path: bytes, shelf: bytes, file: Pending) -> Disposed:
        directory, name = os.path.split(path)
        if self._camera.after is After.DELETE:
            os.unlink(aside)
            sync_directory(directory)
            reach("disposal.deleted", file.path)
            self._sidecars(path, None)
            return Disposed(Outcome.DELETED)
        sync_file(aside)  # the tool's writes too must have reached the disk before the ledger says where the image is
        target = self._move(aside, shelf, name, file)
        sync_directory(shelf)
        sync_directory(directory)
        reach("disposal.moved", file.path)
        self._sidecars(path, shelf)
        return Disposed(Outcome.MOVED, os.fsdecode(target).encode("utf-8", "backslashreplace").decode())

    def _same_stat(self, path: bytes, file: Pending) -> bool:
        facts = os.stat(path, follow_symlinks=False)
        return (facts.st_size, facts.st_mtime_ns) == (file.size, file.mtime_ns)

    def _judged(self, aside: bytes, file: Pending) -> bool:
        if not self._same_stat(aside, file):
            return False
        inode = os.stat(aside, follow_symlinks=False).st_ino
        if inode == file.inode and (self._camera.after is After.MOVE or not file.sha256):
            return True
        return sha256_of(aside, self._tick) == file.sha256

    def _give_back(self, aside: bytes, file: Pending) -> bytes:
        """The name itself may be taken once more by now; then it goes beside it and is judged under that name."""
        for path in (file.path, *others(file.path, file.id)):
            with contextlib.suppress(FileExistsError):
                rename_new(aside, os.path.join(self._root, path))
                sync_directory(os.path.dirname(aside))
                reach("disposal.returned", file.path)
                return path
        raise FileExistsError(errno.EEXIST, "no free name to give the file back under", aside)

    def _move(self, aside: bytes, shelf: bytes, name: bytes, file: Pending) -> bytes:
        source = aside
        for candidate in (name, *others(name, file.id)):
            target = os.path.join(shelf, candidate)
            try:
                rename_new(source, target)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                if os.path.lexists(target):
                    if not self._is_copy(target, aside, file):
                        continue
                else:
                    source = self._copy(aside, shelf, file)
                    reach("disposal.copied", file.path)
                    try:
                        rename_new(source, target)
                    except FileExistsError:
                        continue
            if os.path.lexists(aside):
                sync_directory(shelf)  # the copy's name must be durable before the original goes
                reach("disposal.placed", file.path)
                os.unlink(aside)
            return target
        raise FileExistsError(errno.EEXIST, "no free name in the dated folder", name)

    def _copy(self, aside: bytes, shelf: bytes, file: Pending) -> bytes:
        partial = os.path.join(shelf, _partial(file))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)  # left by a crash
        copy_new(aside, partial, self._tick)
        return partial

    def _is_copy(self, target: bytes, aside: bytes, file: Pending) -> bool:
        """A crash came between copy and unlink: what stands on the other file system is this very image."""
        return self._same_stat(target, file) and sha256_of(target, self._tick) == (file.sha256 or sha256_of(aside, self._tick))

    def _found_elsewhere(self, file: Pending) -> Disposed:
        """Neither the name nor the name aside exists: a crash came after the move, or somebody took the file. What is told of it must be
        durable, whether or not the crash came before the sync."""
        with contextlib.suppress(FileNotFoundError):  # the tool has removed the folder too
            sync_directory(os.path.dirname(os.path.join(self._root, file.path)))
        if self._camera.after is After.MOVE:
            for _, target in self._places(file):
                if self._is_there(target, file):
                    sync_directory(os.path.dirname(target))
                    return Disposed(Outcome.MOVED, os.fsdecode(target).encode("utf-8", "backslashreplace").decode())
        return Disposed(Outcome.GONE)

    def _is_there(self, target: bytes, file: Pending) -> bool:
        with contextlib.suppress(OSError):
            return self._same_stat(target, file)
        return False

    def _sidecars(self, path: bytes, shelf: bytes | None) -> None:
        """A sidecar follows its last image. That it could not be moved is no reason to fail: it stays."""
        stem = os.path.splitext(path)[0]
        siblings = {pattern[1:].lower() for pattern in self._camera.include if pattern.startswith("*.") and "*" not in pattern[1:]}
        for kind in {source.kind for source in self._camera.identity} & SUFFIXES.keys():
            for sidecar in names_beside(path, kind):
                if not os.path.isfile(sidecar) or any(os.path.lexists(stem + os.fsencode(suffix)) for suffix in siblings):
                    continue
                with contextlib.suppress(OSError):
                    if shelf is None:
                        os.unlink(sidecar)
                    else:
                        rename_new(sidecar, os.path.join(shelf, os.path.basename(sidecar)))
                        sync_directory(shelf)
                    sync_directory(os.path.dirname(sidecar))


def _partial(file: Pending) -> bytes:
    return b".edged-" + file.id.encode() + b".part"


def others(name: bytes, result_id: str) -> tuple[bytes, ...]:
    """`{stem}~{id8}{ext}`, then with the whole id, which nothing else can have."""
    stem, extension = os.path.splitext(name)
    return (stem + b"~" + result_id[:8].encode() + extension, stem + b"~" + result_id.encode() + extension)
