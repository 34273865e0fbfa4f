"""Who gets the slots of the rings, and who waits for them.

Invariants
- One ring for each (model, dims, dtype).
- Nobody holds slots while waiting for others, so no two jobs can block each other.
- No free slot: the job waits (first come, first served for each ring). That is the backpressure; memory is bounded by construction.
- Nobody waits whose models cannot be asked: their slots may come back in days.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edged.errors import Unavailable
from edged.nouns import InputPlan
from edged.vision.ring import Ring

Want = tuple[int, Ring, int]
"""(index of the plan, its ring, the most slots of use)."""
Granted = list[tuple[int, Ring, int]]
"""(index of the plan, its ring, one slot)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    wants: list[Want]
    recipe: str
    granted: asyncio.Future[Granted]


class Slots:
    """All rings of a daemon, and who waits for their slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._rings: dict[tuple[str, tuple[int, int, int], str], Ring] = {}
        self._by_name: dict[str, Ring] = {}
        self._waiting: deque[_Waiter] = deque()
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
        for waiter in self._waiting:
            if waiter.recipe == recipe and not waiter.granted.done():
                waiter.granted.set_exception(_nobody_asks(recipe))
        self._waiting = deque(waiter for waiter in self._waiting if not waiter.granted.done())

    async def acquire(self, wants: list[Want], recipe: str = "") -> Granted:
        """At least one slot and at most as many as wanted, for each want; waits until all are to be had at once.

        Unavailable while that would be in vain.
        """
        asked = {id(ring) for _, ring, _ in wants}
        if not any(id(ring) in asked for waiter in self._waiting for _, ring, _ in waiter.wants) and _possible(wants):
            return _granted(wants)
        if recipe in self._vain:
            raise _nobody_asks(recipe)
        waiter = _Waiter(wants, recipe, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and not waiter.granted.exception():
                for _, ring, slot in waiter.granted.result():
                    self.give_back(ring, slot)
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def give_back(self, ring: Ring, slot: int) -> None:
        """Frees one slot and lets the first waiters go on that now can."""
        ring.give_back(slot)
        if not self._waiting:
            return
        passed: list[_Waiter] = []
        while self._waiting and ring.free:
            waiter = self._waiting.popleft()
            if waiter.granted.done():
                continue
            if _possible(waiter.wants):
                waiter.granted.set_result(_granted(waiter.wants))
            else:
                passed.append(waiter)
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
