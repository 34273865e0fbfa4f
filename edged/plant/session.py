"""Drains the outbox over one connection.

Invariants
- At most `window` messages are unanswered (fewer where the broker says so); paho queues nothing.
- A suspect is alone in flight (`publisher.py` says what makes a row one).
- The body and the user properties are the outbox's; `attempt` and `replayed` are added when a row is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol as Shape

from edged.config.peers import Confirm, Mqtt, Protocol
from edged.failpoints import reach
from edged.nouns import OutboxRow
from edged.plant.acks import Acks
from edged.plant.client import Connection, Loss
from edged.plant.lanes import Lanes
from edged.plant.outbox import Outbox
from edged.plant.packing import CLOUD_EVENT, packet_size, publish_properties
from edged.plant.settling import Settler, Topics

FLUSH_S = 2.0
TURN_S = 1.0
LOOK_S = 5.0
SILENT_S = 60.0
QUOTA_PAUSE_S = 1.0
QUOTA_PAUSE_CAP_S = 60.0


class Lasting(Shape):
    """What outlives a session: the publisher."""

    mqtt: Mqtt
    outbox: Outbox
    topics: Topics
    suspects: set[int]
    in_flight: int
    probe_s: float
    published: Callable[[str], None]
    changed: Callable[[], None]
    monotonic: Callable[[], float]

    def taken(self, row: OutboxRow) -> None: ...

    async def after_loss(self, connection: Connection, rows: Sequence[OutboxRow]) -> None: ...


class Session:
    """The draining over one connection."""

    def __init__(self, publisher: Lasting, connection: Connection) -> None:
        self._all, self._connection = publisher, connection
        self._outbox, self._mqtt = publisher.outbox, publisher.mqtt
        self._wake = asyncio.Event()
        self._flying: dict[int, OutboxRow] = {}
        self._lost: list[OutboxRow] = []
        self._heard = 0.0
        self._generation = -1
        self._pause_until, self._pause_s = 0.0, QUOTA_PAUSE_S
        # One place is left for presence where the broker allows few.
        self._window = max(1, min(self._mqtt.window, connection.receive_maximum - 1))
        self._lanes = Lanes(self._outbox, max(64, 2 * self._window), self._mqtt.drain_max_per_s, publisher.monotonic)
        self._settler = Settler(
            self._mqtt,
            self._outbox,
            publisher.topics,
            probe_s=publisher.probe_s,
            changed=self._settled,
            again=self._from_the_beginning,
            quota=self._quota,
            monotonic=publisher.monotonic,
        )

    async def run(self, stop: asyncio.Event, acks: Acks | None) -> None:
        self._connection.lost.add_done_callback(lambda _lost: self._wake.set())
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settler.run(), name="plant.settle")
            sides = [
                group.create_task(self._on_fresh(), name="plant.fresh"),
                group.create_task(self._on_stop(stop), name="plant.stop"),
                group.create_task(self._turns(), name="plant.turns"),
            ]
            if acks is not None:
                sides.append(group.create_task(self._on_acks(acks), name="plant.acks"))
            await self._pump(stop)
            for side in sides:
                side.cancel()
            self._settler.end()
            await settling
        if self._connection.lost.done():
            await self._all.after_loss(self._connection, self._lost)

    async def _pump(self, stop: asyncio.Event) -> None:
        deadline = None
        while not self._connection.lost.done():
            self._wake.clear()
            if self._generation != self._outbox.generation:
                self._generation = self._outbox.generation
                await self._lanes.restart()
                await self._settler.count_parked()  # somebody may have had them sent again
            dry = await self._fill()
            if stop.is_set():
                now = self._all.monotonic()
                deadline = deadline or now + FLUSH_S
                if now >= deadline or (dry and not self._flying and not self._settler.busy):
                    return
            await self._sleep(0.05 if stop.is_set() else TURN_S)

    async def _sleep(self, at_most_s: float) -> None:
        waits = [at_most_s, self._pause_until - self._all.monotonic(), self._lanes.backlog_in_s()]
        try:
            async with asyncio.timeout(min(wait for wait in waits if wait > 0)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _fill(self) -> bool:
        """Sends what the window allows; True if nothing more is due."""
        while self._room():
            row = await self._lanes.next(self._settler.open)
            if row is None:
                return True
            suspect = row.row in self._all.suspects
            if self._connection.lost.done() or (suspect and self._connection.outstanding):
                self._lanes.put_back(row)
                return False
            if row.topic in self._all.topics.held:
                self._settler.hold(row)
            else:
                self._send(row)
        return False

    def _room(self) -> bool:
        if self._connection.lost.done() or self._all.monotonic() < self._pause_until:
            return False
        return not self._connection.reserved and self._connection.outstanding < self._window

    def _send(self, row: OutboxRow, *, probe: bool = False) -> None:
        told = {**row.properties, "replayed": "true" if row.replayed else "false", "attempt": str(row.attempt + 1)}
        properties = publish_properties(CLOUD_EVENT, told) if self._mqtt.protocol is Protocol.V5 else None
        limit = self._connection.maximum_packet_bytes
        if limit is not None and (size := packet_size(row.topic, row.body, properties)) > limit:
            self._settler.park(row, "row-parked", f"the message has {size} bytes, the broker takes {limit}")
            return
        self._settler.sent(row, probe=probe)
        if not self._flying:
            self._heard = self._all.monotonic()
        self._flying[row.row] = row
        self._all.in_flight = len(self._flying)
        self._connection.reserved = row.row in self._all.suspects
        try:
            self._connection.send(row.topic, row.body, properties, partial(self._answered, row))
        except ValueError as error:  # paho will not even try: a topic or body that MQTT does not know
            del self._flying[row.row]
            self._all.in_flight = len(self._flying)
            self._connection.reserved = False
            self._settler.park(row, "row-parked", f"cannot be sent: {error}")
            return
        reach("outbox.sent")

    def _answered(self, row: OutboxRow, code: int | None) -> None:
        del self._flying[row.row]
        self._all.in_flight = len(self._flying)
        self._heard = self._all.monotonic()
        self._wake.set()
        if code is None:
            self._lost.append(row)
            self._all.published("lost")
            return
        reach("outbox.answered")
        self._all.published(f"0x{code:02X}")
        self._all.taken(row)
        self._connection.reserved = False
        if code == 0:
            self._pause_s = QUOTA_PAUSE_S
        self._settler.answered(row, code)

    def _settled(self) -> None:
        self._wake.set()
        self._all.changed()

    def _from_the_beginning(self) -> None:
        self._generation = -1
        self._wake.set()

    def _quota(self) -> None:
        """The broker asks for less: the row stays, and everything waits a while."""
        now = self._all.monotonic()
        if now >= self._pause_until:
            self._pause_until = now + self._pause_s
            self._pause_s = min(QUOTA_PAUSE_CAP_S, 2 * self._pause_s)
        self._from_the_beginning()

    async def _on_fresh(self) -> None:
        while True:
            await self._outbox.fresh.wait()
            self._outbox.fresh.clear()
            self._lanes.look_again()
            self._wake.set()

    async def _on_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _on_acks(self, acks: Acks) -> None:
        while True:
            ack = await acks.get()
            await self._outbox.acknowledge(
                ack["epoch"],
                ack["kind"],
                ack["up_to_sequence"],
                ack.get("missing", []),
                ack_timeout_s=self._mqtt.ack_timeout_s,
                in_flight=list(self._flying),
            )
            self._wake.set()

    async def _turns(self) -> None:
        """By the clock: probes of held topics, rows whose ack is late, and rows that no hint told of."""
        turn_s = min(TURN_S, self._all.probe_s / 4, self._mqtt.ack_timeout_s / 4)
        looked = self._all.monotonic()
        while True:
            self._watch()
            await self._probe()
            if self._mqtt.confirm is Confirm.MES:
                await self._outbox.expire()
            if self._all.monotonic() - looked >= LOOK_S:
                looked = self._all.monotonic()
                self._lanes.look_again()
                self._wake.set()
            await asyncio.sleep(turn_s)

    def _watch(self) -> None:
        """A broker that answers pings but acknowledges nothing: the connection is of no use."""
        if self._flying and self._all.monotonic() - self._heard > SILENT_S:
            cause = f"the broker has acknowledged nothing for {SILENT_S:g} s"
            self._connection.drop(Loss(cause, "Look at the broker's log; edged connects again by itself."))

    async def _probe(self) -> None:
        """One row of each held topic, soon at first, then once a minute."""
        for topic, probe in list(self._all.topics.held.items()):
            if self._all.monotonic() < probe.at or not self._room():
                continue
            row = await self._outbox.probe(topic)
            if topic not in self._all.topics.held or self._connection.lost.done():
                continue
            probe.later(self._all.monotonic(), self._all.probe_s)
            if row is not None and row.row not in self._settler.open:
                self._send(row, probe=True)
