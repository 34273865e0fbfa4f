"""Settled landings on their way out: ready, sent, or parked because their recipe is held.

Invariants
- A landing is sent once and is in flight until `finish` or `put_back`; its path is in `flights` for exactly that time.
- A held recipe delays its own landings only; beyond `MAX_READY` of them only their paths are kept, and they are looked at afresh later.
- A full channel blocks the sending task and nothing else of the camera.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from datetime import datetime

from edged.channel import Channel
from edged.failpoints import reach
from edged.intake.candidates import Flight
from edged.nouns import Landing

MAX_READY = 1024
HOLD_TICK_S = 0.1

Parked = tuple[bytes, datetime]
"""A path and when the file was first seen."""


class Outgoing:
    """`held(camera, recipe)` says whether a recipe's images must wait.

    `leaving`: paths that we are moving or deleting, and whether something was seen to happen to them meanwhile.
    """

    def __init__(self, camera: str, landings: Channel[Landing], held: Callable[[str, str], bool]) -> None:
        self._camera, self._landings, self._held = camera, landings, held
        self._ready: dict[str, deque[bytes]] = {}
        self._parked: dict[str, deque[Parked]] = {}
        self._event = asyncio.Event()
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
        queue = self._ready.setdefault(landing.recipe, deque())
        if len(queue) >= MAX_READY and self._held(self._camera, landing.recipe):
            self.park(landing)
            return False
        self.flights[landing.path] = Flight(landing)
        queue.append(landing.path)
        self._event.set()
        return True

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
        while True:
            self._event.clear()
            path = self._next()
            if path is None:
                # What is held is asked about again soon; with nothing ready only an event can change that.
                timeout = HOLD_TICK_S if self.ready else None
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._event.wait(), timeout)
                continue
            await self._landings.send(self.flights[path].landing)
            self.sent += 1
            reach("intake.sent", path)

    def _next(self) -> bytes | None:
        for recipe, queue in self._ready.items():
            if queue and not self._held(self._camera, recipe):
                return queue.popleft()
        return None
