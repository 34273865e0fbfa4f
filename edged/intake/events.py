"""A camera's events on their way to the outbox: one after the other, waiting for a ledger that is away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from edged.errors import Unavailable
from edged.intake.recall import Announce

MAX_EVENTS = 1000
RETRY_S = 1.0


class Events:
    """At most `MAX_EVENTS` wait; beyond that the oldest go, since the ledger's own state is the alarm by then."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._waiting: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=MAX_EVENTS)
        self._told = asyncio.Event()

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        self._waiting.append((kind, data))
        self._told.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._told.wait()
            self._told.clear()
            while not await self.flush():
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> bool:
        """False when the ledger is away and something still waits."""
        while self._waiting:
            event = self._waiting[0]
            try:
                await self._announce(*event)
            except Unavailable:
                return False
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()
        return True
