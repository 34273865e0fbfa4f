"""What the publisher knows from one connection to the next.

Invariants
- A row leaves the outbox only by the broker's own word. A lost connection changes nothing but the count of attempts.
- Rows that were in flight when a connection was lost are suspects: they go one at a time (`session.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from edged.config.peers import Confirm, Mqtt
from edged.plant.client import Connection
from edged.plant.outbox import Outbox
from edged.plant.schema import Ack
from edged.plant.session import Session
from edged.plant.settling import Topics


class Publisher:
    """What lasts longer than a connection. `published` counts answers: the reason code as text, or `lost`."""

    def __init__(
        self,
        mqtt: Mqtt,
        outbox: Outbox,
        *,
        published: Callable[[str], None] = lambda _reason: None,
        changed: Callable[[], None] = lambda: None,
        probe_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mqtt, self.outbox, self.published, self.changed = mqtt, outbox, published, changed
        self.probe_s, self.monotonic = probe_s, monotonic
        self.topics = Topics({})
        self.suspects: set[int] = set()
        self.in_flight = 0
        self._began = False

    async def begin(self) -> None:
        """Before the first connection: what the outbox remembers of the last run."""
        if self._began:
            return
        for topic in await self.outbox.held_topics():
            self.topics.held[topic] = 0.0
        if self.mqtt.confirm is Confirm.BROKER:
            await self.outbox.expire(everything=True)  # accepted while `confirm` was "mes"
        self._began = True

    async def run(self, connection: Connection, stop: asyncio.Event, acks: asyncio.Queue[Ack] | None = None) -> None:
        """Until the connection is lost; or until everything due is delivered after `stop`, within 2 s."""
        await self.begin()
        for topic in self.topics.held:
            self.topics.held[topic] = 0.0
        if self.mqtt.confirm is Confirm.MES and not connection.session_present:
            await self.outbox.expire(everything=True)
        await Session(self, connection).run(stop, acks)
