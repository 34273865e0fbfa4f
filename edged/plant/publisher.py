"""What the publisher knows from one connection to the next.

Invariants
- A row leaves the outbox only by the broker's own word. A lost connection changes nothing but the count of attempts.
- Rows that were in flight when a connection was lost are suspects: they go one at a time. Only a loss while a row is alone in flight, after
  the broker has answered on that connection, counts against the row; at three it is put aside, announced, and the rest goes on.
- A line that drops anything accuses the innocent too: each row that was accused and then taken raises the three for a while.
- A broker that only fell silent accuses nobody, unless it lets us in at the very next try: else it hung, or the network was cut.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from edged.config.peers import Confirm, Mqtt
from edged.nouns import OutboxRow
from edged.plant.acks import Acks
from edged.plant.client import Connection
from edged.plant.outbox import Outbox
from edged.plant.session import Session
from edged.plant.settling import Probe, Topics

STRIKES = 3
STRIKES_CAP = 12
ACQUITTAL_S = 600.0


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
        self._silenced: OutboxRow | None = None
        self._unreached = False
        self._accused: set[int] = set()
        self._acquitted: deque[float] = deque(maxlen=STRIKES_CAP)
        self._began = False

    async def begin(self) -> None:
        """Before the first connection: what the outbox remembers of the last run."""
        if self._began:
            return
        for topic in await self.outbox.held_topics():
            self.topics.held[topic] = Probe()
        if self.mqtt.confirm is Confirm.BROKER:
            await self.outbox.expire(everything=True)  # accepted while `confirm` was "mes"
        self._began = True

    async def run(self, connection: Connection, stop: asyncio.Event, acks: Acks | None = None) -> None:
        """Until the connection is lost; or until everything due is delivered after `stop`, within 2 s."""
        await self.begin()
        await self.reached()
        for topic in self.topics.held:
            self.topics.held[topic] = Probe()
        if self.mqtt.confirm is Confirm.MES and not connection.session_present:
            await self.outbox.expire(everything=True)
        await Session(self, connection).run(stop, acks)

    async def reached(self) -> None:
        """A try to connect has worked."""
        self._unreached = False
        if (row := self._silenced) is not None:
            self._silenced = None
            await self._strike(row)

    def unreachable(self) -> None:
        """A try to connect has failed: whatever silenced the broker was no row of ours."""
        self._silenced, self._unreached = None, True

    async def after_loss(self, connection: Connection, rows: Sequence[OutboxRow]) -> None:
        """`rows` were in flight. They are sent again one at a time, and one that was alone may be to blame."""
        loss = connection.lost.result()
        if not rows:
            return
        await self.outbox.lost([row.row for row in rows])
        if not loss.cause:  # we ended it
            return
        self.suspects.update(row.row for row in rows)
        if loss.excused or connection.outstanding_at_loss != 1 or not connection.answered:
            return
        if loss.silent:
            self._silenced = None if self._unreached else rows[0]  # the disk may have kept us until after the next try
        else:
            await self._strike(rows[0])

    def taken(self, row: OutboxRow) -> None:
        """The broker has answered for it."""
        self.suspects.discard(row.row)
        if row.row in self._accused:
            self._accused.discard(row.row)
            self._acquitted.append(self.monotonic())

    async def _strike(self, row: OutboxRow) -> None:
        self._accused.add(row.row)
        strikes = await self.outbox.struck(row.row)
        since = self.monotonic() - ACQUITTAL_S
        if strikes < min(STRIKES_CAP, STRIKES + sum(at > since for at in self._acquitted)):
            return
        self._accused.discard(row.row)
        reason = f"the broker dropped the connection {strikes} times when only this message was on its way"
        data = {"topic": row.topic, "reason": reason, "kind": row.kind, "epoch": row.epoch, "sequences": [[row.sequence] * 2]}
        await self.outbox.park([row.row], reason, None if row.kind == "event" else ("row-parked", data))
        self.suspects.discard(row.row)
        self.topics.refused += 1
        self.topics.parked, self.topics.last_refusal = await self.outbox.parked()
