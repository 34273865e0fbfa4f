"""Settled landings on their way out: ready, sent, or parked because their recipe is held.

Invariants
- A landing is sent once and is in flight until `finish` or `put_back`; its path is in `flights` for exactly that time.
- A held recipe delays its own landings only; beyond `MAX_READY` of them only their paths are kept, and they are looked at afresh later.
- A full channel blocks the task that sends this recipe's landings, and nothing else of the camera.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from edged.failpoints import reach
from edged.intake.candidates import Flight
from edged.nouns import Landing

MAX_READY = 1024
HOLD_TICK_S = 0.1

Parked = tuple[bytes, datetime]
"""A path and when the file was first seen."""


class Landings(Protocol):
    """The way to those who judge; `send` waits for room, a recipe's landings for their own."""

    async def send(self, item: Landing) -> None: ...

    async def close(self) -> None: ...


class Outgoing:
    """`held(camera, recipe)` says whether a recipe's images must wait.

    `leaving`: paths that we are moving or deleting, and whether something was seen to happen to them meanwhile.
    """

    def __init__(self, camera: str, landings: Landings, held: Callable[[str, str], bool]) -> None:
        self._camera, self._landings, self._held = camera, landings, held
        self._ready: dict[str, deque[bytes]] = {}
        self._parked: dict[str, deque[Parked]] = {}
        self._events: dict[str, asyncio.Event] = {}
        self._new_recipe = asyncio.Event()
        self.flights: dict[bytes, Flight] = {}
        self.leaving: dict[bytes, bool] = {}
        self.sent = 0

    @property
    def ready(self) -> int:
        return sum(map(len, self._ready.values()))

    @property
    def parked(self) -> int:
        return sum(map(len, self._parked.values()))

    def add(self, landing: Landing) -> bool:
        """False when it was only parked: so many landings of this recipe wait that this one must be looked at again later."""
        queue = self._queue(landing.recipe)
        if len(queue) >= MAX_READY and self._held(self._camera, landing.recipe):
            self.park(landing)
            return False
        self.flights[landing.path] = Flight(landing)
        queue.append(landing.path)
        self._events[landing.recipe].set()
        return True

    def _queue(self, recipe: str) -> deque[bytes]:
        if recipe not in self._ready:
            self._ready[recipe], self._events[recipe] = deque(), asyncio.Event()
            self._new_recipe.set()
        return self._ready[recipe]

    def park(self, landing: Landing) -> None:
        self._parked.setdefault(landing.recipe, deque()).append((landing.path, landing.detected))

    def finish(self, landing: Landing) -> Flight | None:
        """The landing is judged, put back or gone. None when it was not in flight, or another one of that path is."""
        flight = self.flights.get(landing.path)
        if flight is None or flight.landing is not landing:
            return None
        return self.flights.pop(landing.path)

    def released(self, room: int) -> list[Parked]:
        """Parked paths, at most `room`, whose recipes are no longer held and have room among the ready."""
        found: list[Parked] = []
        for recipe, parked in self._parked.items():
            if parked and not self._held(self._camera, recipe):
                count = min(room - len(found), MAX_READY - len(self._ready.get(recipe, ())), len(parked))
                found.extend(parked.popleft() for _ in range(count))
        return found

    async def run(self) -> None:
        """Sends what is ready until cancelled."""
        senders: set[str] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._new_recipe.clear()
                for recipe in self._ready.keys() - senders:
                    senders.add(recipe)
                    group.create_task(self._send(recipe), name=f"send-{self._camera}-{recipe}")
                await self._new_recipe.wait()

    async def _send(self, recipe: str) -> None:
        ready, event = self._ready[recipe], self._events[recipe]
        while True:
            event.clear()
            if not ready:
                await event.wait()
            elif self._held(self._camera, recipe):
                await asyncio.sleep(HOLD_TICK_S)  # only asking tells that a hold has ended
            else:
                path = ready.popleft()
                await self._landings.send(self.flights[path].landing)
                self.sent += 1
                reach("intake.sent", path)
