"""The room's front: one connection after another, and over each of them presence and the publisher.

Invariants
- The broker may be away at any time: we try again with growing, jittered pauses, and health says since when, why, and what to do.
- At the end what is due now is published within 2 s, then `state` says that we go, then a clean DISCONNECT.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from edged.backoff import Backoff
from edged.clock import kernel_state
from edged.config import Config
from edged.config.peers import Confirm
from edged.errors import Unavailable
from edged.nouns import Board, HealthItem, HealthStatus
from edged.plant.acks import Acks
from edged.plant.client import Connection, ConnectionLost, first
from edged.plant.dialling import Dialler, Refused
from edged.plant.outbox import Outbox
from edged.plant.presence import Facts, Presence
from edged.plant.publisher import Publisher
from edged.plant.schema import ack_message

log = structlog.get_logger("edged.plant")

STEADY_S = 10.0
"""A connection that lasted this long was a good one: the pauses begin anew."""
REFUSED_S = 30.0
"""A broker that refuses us is asked no more often: somebody has to change something first."""
END_S = 3.0
SETTLED_S = 2.0
"""A lost connection's answers are on disk by then, or the disk hangs: nobody waits for it to connect again."""


@dataclass(frozen=True, slots=True)
class PlantSnapshot:
    """`since`: of being connected, or of not being so. `held`: topics to which nobody subscribes. Counts are since the start."""

    connected: bool
    since: datetime
    cause: str
    hint: str
    in_flight: int
    delivered: int
    refused: int
    held: tuple[str, ...]


class Plant:
    """`published` counts the broker's answers; the other callables feed `Presence`."""

    def __init__(
        self,
        config: Config,
        *,
        outbox: Outbox,
        board: Board,
        published: Callable[[str], None] = lambda _reason: None,
        health: Callable[[], Sequence[HealthItem]] = tuple,
        backlog: Facts = dict,
        birth: Facts = dict,
        telemetry: Facts = dict,
        e10: Callable[[], str | None] = lambda: None,
        clock: Callable[[], str] = kernel_state,
        probe_s: float = 60.0,
        backoff: Backoff | None = None,
        refused_s: float = REFUSED_S,
        sample: Callable[[], float] = random.random,
    ) -> None:
        self._config, self._board, self._sample = config, board, sample
        self._backoff = backoff or Backoff(first_s=1.0, cap_s=30.0)
        self._refused_s, self._refused = refused_s, False
        self.presence = Presence(config, health=health, backlog=backlog, birth=birth, telemetry=telemetry, e10=e10, clock=clock)
        self.publisher = Publisher(config.mqtt, outbox, published=published, changed=self._report, probe_s=probe_s)
        station = config.station
        self._dialler = Dialler(config.mqtt, f"edged-{station.tool}-{station.instance}", self.presence.will())
        self._acks = Acks()
        self._ack_topic = f"{config.topic_base}/ack"
        self._ack_refused = False
        self._connection: Connection | None = None
        self._sessions: asyncio.TaskGroup | None = None
        self._session: asyncio.Task[None] | None = None
        self._since = datetime.now(UTC)
        self._cause, self._hint = "not connected yet", ""
        self._told: tuple[HealthStatus, str] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; never raises for a broker that is away."""
        async with asyncio.TaskGroup() as self._sessions:
            await self._keep_connected(stop)

    async def _keep_connected(self, stop: asyncio.Event) -> None:
        attempt = 0
        while not stop.is_set():
            connection = await self._open(stop)
            if connection is None:
                self.publisher.unreachable()
            else:
                before = self._progress()
                await self._live(connection, stop)
                if self._progress() != before or time.monotonic() - connection.since >= STEADY_S:
                    attempt = 0
            attempt += 1
            sample = self._sample()
            at_least_s = self._refused_s * (1 + 0.2 * sample) if self._refused else 0.0
            await _pause(stop, max(at_least_s, self._backoff.delay_s(attempt, sample)))

    def _progress(self) -> tuple[int, int]:
        """Rows that were taken, or put aside so that others can be: the connection was worth having."""
        return self.publisher.topics.delivered, self.publisher.topics.refused

    def snapshot(self) -> PlantSnapshot:
        publisher = self.publisher
        return PlantSnapshot(
            connected=self._connection is not None,
            since=self._since,
            cause=self._cause,
            hint=self._hint,
            in_flight=publisher.in_flight,
            delivered=publisher.topics.delivered,
            refused=publisher.topics.refused,
            held=tuple(sorted(publisher.topics.held)),
        )

    async def _open(self, stop: asyncio.Event) -> Connection | None:
        """A connection, or None: it did not work out, as health says, or `stop` came first."""
        async with asyncio.TaskGroup() as group:
            dialling = group.create_task(self._try(), name="plant.dial")
            stopping = group.create_task(stop.wait(), name="plant.stop")
            await asyncio.wait({dialling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not dialling.done():
                dialling.cancel()
                return None
        return dialling.result()

    async def _try(self) -> Connection | None:
        try:
            return await Connection.open(self._dialler, self._inbound)
        except Unavailable as error:
            self._refused = isinstance(error, Refused)
            self._down(error.cause, error.hint)
            return None

    async def _live(self, connection: Connection, stop: asyncio.Event) -> None:
        self._connection, self._since = connection, datetime.now(UTC)
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(self._guard(connection, stop), name="plant.guard")
            try:
                await self._talk(connection, stop)
            finally:
                guard.cancel()
                self._connection = None
                await connection.close()
        loss = connection.lost.result()
        self._refused = loss.refused
        if stop.is_set():
            self._cause, self._since = "edged stops", datetime.now(UTC)
        else:
            self._down(loss.cause or f"{self._dialler.broker}: disconnected", loss.hint)

    async def _talk(self, connection: Connection, stop: asyncio.Event) -> None:
        """Until the connection is lost, or everything is said after `stop`."""
        try:
            await self.presence.hello(connection)
            await self._subscribe(connection)
            self._report()
            async with asyncio.TaskGroup() as group:
                presence = group.create_task(self._present(connection), name="plant.presence")
                await self._drain(connection, stop)
                presence.cancel()
            if not connection.lost.done():
                await self.presence.goodbye(connection)
        except ConnectionLost:
            return  # why stands in `lost`

    async def _drain(self, connection: Connection, stop: asyncio.Event) -> None:
        """One session at a time. One whose connection is gone may still wait for a disk that hangs: presence and health do not."""
        assert self._sessions is not None, "run() is not running"
        if self._session is not None:
            await first(self._session, connection.lost)
            if not self._session.done():
                return
        self._session = self._sessions.create_task(self.publisher.run(connection, stop, self._acks), name="plant.session")
        await first(self._session, connection.lost)
        await asyncio.wait({self._session}, timeout=SETTLED_S)

    async def _guard(self, connection: Connection, stop: asyncio.Event) -> None:
        """A broker that no longer answers must not hold up the end."""
        await stop.wait()
        await asyncio.sleep(END_S)
        connection.drop()

    async def _present(self, connection: Connection) -> None:
        try:
            await self.presence.run(connection)
        except ConnectionLost:
            return  # the publisher sees it too

    async def _subscribe(self, connection: Connection) -> None:
        """To the MES's acknowledgements, where they count."""
        if self._config.mqtt.confirm is Confirm.MES:
            self._ack_refused = await connection.subscribe(self._ack_topic) >= 0x80

    def _inbound(self, topic: str, body: bytes, retained: bool) -> None:
        """An acknowledgement from the MES. A retained one says nothing about now."""
        if topic != self._ack_topic or retained:
            return
        try:
            ack = ack_message.validate_json(body)
        except ValidationError as error:
            problem = error.errors()[0]
            log.warning("ack.refused", topic=topic, problem=f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
            return
        if ack["source"] == self._config.station.source:
            self._acks.put(ack)

    def _down(self, cause: str, hint: str) -> None:
        if self._cause == "" or self._told is None:
            self._since = datetime.now(UTC)
        self._cause, self._hint = cause, hint
        self._told = (HealthStatus.DOWN, cause)
        self._board.report("broker", HealthStatus.DOWN, cause, hint, broker=self._dialler.broker)

    def _report(self) -> None:
        """Connected: says so once, and again when something else is to be said."""
        if self._connection is None:
            return
        self._cause, self._hint = "", ""
        status, cause, hint = self._judge()
        if self._told != (status, cause):
            self._told = (status, cause)
            self._board.report("broker", status, cause, hint, broker=self._dialler.broker)

    def _judge(self) -> tuple[HealthStatus, str, str]:
        topics, broker = self.publisher.topics, self._dialler.broker
        if self._ack_refused:
            cause = f"{broker}: it does not let us subscribe to {self._ack_topic}, so the MES cannot acknowledge"
            return HealthStatus.DEGRADED, cause, "Let this user read the topic, in the broker's access list."
        told: list[tuple[str, str]] = []
        if topics.parked:
            cause = f"it refused messages, and {topics.parked} are put aside; the last was {topics.last_refusal}"
            told.append((cause, "Correct the broker's access list or limits, then have them sent again: `edged outbox retry`."))
        if topics.held:
            first, more = min(topics.held), len(topics.held) - 1
            cause = f"nobody subscribes to {first}" + (f" and {more} more topics" if more else "") + "; their messages wait"
            told.append((cause, 'Start the MES, or set [mqtt] no_subscriber = "accept".'))
        if self.presence.refused:
            topic, code = next(iter(self.presence.refused.items()))
            told.append((f"it refuses {topic} (0x{code:02X})", "Correct the broker's access list or limits."))
        if not told:
            return HealthStatus.OK, "", ""
        return HealthStatus.DEGRADED, f"{broker}: " + "; ".join(cause for cause, _ in told), " ".join(hint for _, hint in told)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
