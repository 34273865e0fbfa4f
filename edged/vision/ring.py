"""Rings of tensor slots in shared memory: written by decoder processes, read by Triton. `slots.py` hands the slots out.

Invariants
- Slot stride == tensor bytes, so neighbouring slots form a batch in place.
- A slot is free, or it belongs to exactly one job, child or tensor.
- Slots are handed out in increasing order, around and around, so that images prepared together lie together.
- The owner of a ring holds a lock on its file for life. A ring whose lock is free belongs to a dead daemon and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Unavailable
from edged.nouns import InputPlan

SHM = Path("/dev/shm")  # noqa: S108 - POSIX shared memory has this one place on Linux; Triton opens it by name
MAX_RING_BYTES = 1 << 30
_NAME = re.compile(r"edged-(\d+)-\d+")
_ROOM = f"Make {SHM} larger, or decode.slots smaller."
_HINTS = {
    errno.EMFILE: "Raise the daemon's limit of open files (LimitNOFILE=).",
    errno.ENFILE: "Raise the machine's limit of open files (fs.file-max).",
    errno.EACCES: f"Let the daemon's user create files in {SHM}.",
}
_DTYPES: dict[str, Any] = {"UINT8": np.uint8, "FP32": np.float32}


@dataclass(frozen=True, slots=True)
class RingFacts:
    """What registration with Triton needs; `nbytes` is the whole file, `slot_nbytes` one tensor."""

    name: str
    path: str
    nbytes: int
    slot_nbytes: int
    slots: int


class Ring:
    """One ring file. `views[slot]` is the slot's tensor, read-only, shape (C, H, W).

    `writable`: a descriptor for the decoder processes, open as long as the ring is, so that they need no path, which somebody may unlink.
    Raises Unavailable("/dev/shm").
    """

    def __init__(self, plan: InputPlan, slots: int, number: int) -> None:
        dtype = np.dtype(_DTYPES[plan.dtype])
        self.nbytes = int(np.prod(plan.dims)) * dtype.itemsize
        count = max(2, min(slots, MAX_RING_BYTES // self.nbytes))
        path, self._lock, self.writable, memory = _create(self.nbytes * count, number)
        self.facts = RingFacts(path.name, str(path), self.nbytes * count, self.nbytes, count)
        self.views: list[NDArray[Any]] = [np.ndarray(plan.dims, dtype, memory, i * self.nbytes) for i in range(count)]
        self._taken = bytearray(count)
        self._next = 0
        self.free: int = count

    def take(self, most: int) -> list[int]:
        """Up to `most` free slots, in order from where the last one was handed out."""
        found: list[int] = []
        for _ in range(min(most, self.free)):
            slot = self._taken.find(0, self._next)
            if slot < 0:
                slot = self._taken.find(0)
            self._taken[slot] = 1
            self._next = (slot + 1) % len(self._taken)
            found.append(slot)
        self.free -= len(found)
        return found

    def give_back(self, slot: int) -> None:
        """The slot is free again. A slot given back twice is a bug that would mix two images, so it is refused."""
        if not self._taken[slot]:
            raise ValueError(f"slot {slot} of {self.facts.name} was released twice")
        self._taken[slot] = 0
        self.free += 1

    def remove(self) -> None:
        """Unlinks the file; mappings (ours, Triton's) stay valid until they go."""
        Path(self.facts.path).unlink(missing_ok=True)
        os.close(self.writable)
        os.close(self._lock)


def _create(nbytes: int, number: int) -> tuple[Path, int, int, mmap.mmap]:
    """(path, descriptor with the lock, descriptor for the processes, what we see). All of it, or nothing is left behind."""
    with contextlib.ExitStack() as undo:
        try:
            path, fd = _new_file(number)
            undo.callback(os.close, fd)
            undo.callback(path.unlink, missing_ok=True)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, 0o660)  # Triton may run under another user of our group; the umask does not know
            os.posix_fallocate(fd, 0, nbytes)
            # Opened anew, not a duplicate: the lock must not live on in a child.
            writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, writable)
            memory = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ)
        except OSError as error:
            cause = f"{nbytes} bytes for a ring in {SHM} are not to be had: {error.strerror}"
            raise Unavailable(str(SHM), cause, _HINTS.get(error.errno or 0, _ROOM)) from error
        undo.pop_all()
        return path, fd, writable, memory


def _new_file(number: int) -> tuple[Path, int]:
    # Two daemons in different PID namespaces may share /dev/shm, so a name can be taken.
    while True:
        path = SHM / f"edged-{os.getpid()}-{number}"
        try:
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        except FileExistsError:
            number += 1


def remove_stale() -> list[str]:
    """Removes the rings of dead daemons; returns their names. A living daemon's rings are locked and stay."""
    removed: list[str] = []
    for path in SHM.iterdir():
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue  # gone meanwhile, or another user's
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between its creation and its lock a living daemon's ring looks stale for microseconds.
            if not Path(f"/proc/{match[1]}").exists() or time.time() - os.fstat(fd).st_ctime > 10:
                path.unlink(missing_ok=True)
                removed.append(path.name)
        except OSError:
            pass  # locked: its daemon lives
        finally:
            os.close(fd)
    return removed
