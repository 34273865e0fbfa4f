"""Rings of tensor slots in shared memory: written by decoder processes, read by Triton, handed out here.

Invariants
- One file below /dev/shm for each (model, dims, dtype): slot stride == tensor bytes, so neighbouring slots form a batch in place.
- A slot is free, or it belongs to exactly one job, child or tensor. Nobody holds slots while waiting for others, so no two jobs can block
  each other.
- Slots are handed out in increasing order, around and around, so that images prepared together lie together.
- No free slot: the job waits (first come, first served for each ring). That is the backpressure; memory is bounded by construction.
- The owner of a ring holds a lock on its file for life. A ring whose lock is free belongs to a dead daemon and is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import re
import time
from collections import deque
from collections.abc import Sequence
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


Want = tuple[int, Ring, int]
"""(index of the plan, its ring, the most slots of use)."""
Granted = list[tuple[int, Ring, int]]
"""(index of the plan, its ring, one slot)."""


class Slots:
    """All rings of a daemon, and who waits for their slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._rings: dict[tuple[str, tuple[int, int, int], str], Ring] = {}
        self._by_name: dict[str, Ring] = {}
        self._waiting: deque[tuple[list[Want], asyncio.Future[Granted]]] = deque()
        self._asking: dict[asyncio.Future[Granted], str] = {}
        self._vain: set[str] = set()

    def ring(self, plan: InputPlan) -> tuple[Ring, bool]:
        """The plan's ring and whether it was made just now. Raises Unavailable when /dev/shm is full."""
        key = (plan.model, plan.dims, plan.dtype)
        if (known := self._rings.get(key)) is not None:
            return known, False
        ring = self._rings[key] = Ring(plan, self._slots, len(self._rings))
        self._by_name[ring.facts.name] = ring
        return ring, True

    def all(self) -> tuple[Ring, ...]:
        return tuple(self._rings.values())

    def in_vain(self, recipe: str, vain: bool) -> None:
        """While nobody can use this recipe's tensors its images do not wait for slots, which may come back in days: Unavailable instead."""
        if not vain:
            self._vain.discard(recipe)
            return
        self._vain.add(recipe)
        for future in [future for future, whose in self._asking.items() if whose == recipe and not future.done()]:
            future.set_exception(_nobody_asks(recipe))
        self._waiting = deque(waiter for waiter in self._waiting if not waiter[1].done())

    async def acquire(self, wants: list[Want], recipe: str = "") -> Granted:
        """At least one slot and at most as many as wanted, for each want; waits until all are to be had at once.

        Unavailable while that would be in vain.
        """
        asked = {id(ring) for _, ring, _ in wants}
        if not any(id(ring) in asked for others, _ in self._waiting for _, ring, _ in others) and _possible(wants):
            return _granted(wants)
        if recipe in self._vain:
            raise _nobody_asks(recipe)
        future: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self._waiting.append((wants, future))
        self._asking[future] = recipe
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                for _, ring, slot in future.result():
                    self.give_back(ring, slot)
            else:
                self._waiting = deque(waiter for waiter in self._waiting if waiter[1] is not future)
            raise
        finally:
            del self._asking[future]

    def give_back(self, ring: Ring, slot: int) -> None:
        """Frees one slot and lets the first waiters go on that now can."""
        ring.give_back(slot)
        if not self._waiting:
            return
        passed: list[tuple[list[Want], asyncio.Future[Granted]]] = []
        while self._waiting and ring.free:
            wants, future = self._waiting.popleft()
            if future.done():
                continue
            if _possible(wants):
                future.set_result(_granted(wants))
            else:
                passed.append((wants, future))
        self._waiting.extendleft(reversed(passed))

    def release(self, name: str, slot: int) -> None:
        self.give_back(self._by_name[name], slot)

    def remove(self) -> None:
        for ring in self._rings.values():
            ring.remove()
        self._rings.clear()


def _nobody_asks(recipe: str) -> Unavailable:
    return Unavailable("triton", f"the models of {recipe} cannot be asked, and no slot is free", "See the recipe's own health item.")


def _possible(wants: Sequence[Want]) -> bool:
    # Two models of one recipe may share a ring: then it must hold a slot for each.
    if len(wants) == 1:
        return bool(wants[0][1].free)
    needed: dict[int, int] = {}
    for _, ring, _ in wants:
        needed[id(ring)] = needed.get(id(ring), 0) + 1
    return all(ring.free >= needed[id(ring)] for _, ring, _ in wants)


def _granted(wants: Sequence[Want]) -> Granted:
    first = [(plan, ring, slot) for plan, ring, _ in wants for slot in ring.take(1)]
    # Never more than half a ring for one page: its tiles must not hold up every other image.
    more = [
        (plan, ring, slot) for plan, ring, most in wants if most > 1 for slot in ring.take(min(most, max(1, ring.facts.slots // 2)) - 1)
    ]
    return sorted(first + more, key=lambda grant: grant[0]) if more else first
