"""What the plant is told outside the outbox: state, birth, health and telemetry. Each says how things are now; none is owed to anybody."""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edged import __version__
from edged.clock import kernel_state
from edged.config import Config
from edged.config.peers import Protocol
from edged.nouns import HealthItem, HealthStatus
from edged.plant.client import Connection
from edged.plant.dialling import Will
from edged.plant.packing import JSON, publish_properties
from edged.plant.schema import EVENT_SCHEMA, RESULT_SCHEMA
from edged.plant.text import plain

TURN_S = 1.0
HEALTH_S = 30.0
HEALTH_EXPIRY_S = 120
TELEMETRY_S = 20.0
SLOW_S = 5.0
TELEMETRY_EXPIRY_S = 60
_OPTIONAL = frozenset({"gpu", "clock"})
_WORST = (HealthStatus.OK, HealthStatus.UNKNOWN, HealthStatus.DEGRADED, HealthStatus.DOWN)

Facts = Callable[[], Mapping[str, Any]]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def boot_id() -> str | None:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


class Presence:
    """`health` gives the items, `backlog` the outbox's figures, `birth` and `telemetry` further facts; all answer from memory at once."""

    def __init__(
        self,
        config: Config,
        *,
        health: Callable[[], Sequence[HealthItem]] = tuple,
        backlog: Facts = dict,
        birth: Facts = dict,
        telemetry: Facts = dict,
        e10: Callable[[], str | None] = lambda: None,
        clock: Callable[[], str] = kernel_state,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._config, self._health, self._backlog, self._birth, self._telemetry = config, health, backlog, birth, telemetry
        self._e10, self._clock, self._now = e10, clock, now
        self._base, self._five = config.topic_base, config.mqtt.protocol is Protocol.V5
        self._boot_id = boot_id()
        self._config_sha256 = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        self.refused: dict[str, int] = {}
        self._told: tuple[Any, ...] | None = None
        self._told_born: dict[str, Any] | None = None
        self._told_e10: str | None = None
        self._since = now()
        self._health_at = self._telemetry_at = self._slow_at = 0.0

    def will(self) -> Will:
        return Will(f"{self._base}/state", self._state(online=False, since=None, reason="connection-lost"), self._config.mqtt.will_delay_s)

    async def hello(self, connection: Connection) -> None:
        """`state`, `birth` and all the rest once, before any row; ConnectionLost."""
        self.refused.clear()
        self._told = self._told_born = None
        self._health_at = self._telemetry_at = self._slow_at = 0.0
        self._since = self._now()
        await self._say_state(connection)
        await self._turn(connection)

    async def goodbye(self, connection: Connection) -> None:
        """`online: false` before we disconnect; ConnectionLost."""
        await self._publish(connection, "state", self._state(online=False, since=self._now(), reason="stopped"), retain=True)

    async def run(self, connection: Connection) -> None:
        """Until it is cancelled: health on each change and every 30 s, telemetry every 20 s, birth and state on change; ConnectionLost."""
        while True:
            await asyncio.sleep(TURN_S)
            if not connection.reserved:
                await self._turn(connection)

    async def _turn(self, connection: Connection) -> None:
        items = tuple(self._health())
        now = time.monotonic()
        key = tuple((item.name, item.status, item.cause) for item in items)
        if key != self._told or now >= self._health_at:
            self._told, self._health_at = key, now + HEALTH_S
            await self._publish(connection, "health", self.health(items), retain=True, expiry_s=HEALTH_EXPIRY_S)
        if now >= self._telemetry_at:
            self._telemetry_at = now + TELEMETRY_S
            await self._publish(connection, "telemetry", self.telemetry(), qos=0, expiry_s=TELEMETRY_EXPIRY_S)
        if now >= self._slow_at:
            self._slow_at = now + SLOW_S
            await self._slow_turn(connection)

    async def _slow_turn(self, connection: Connection) -> None:
        """What changes seldom, or too often to be told each time."""
        if (born := self._born()) != self._told_born:
            self._told_born = born
            await self._publish(connection, "birth", self.birth(), retain=True)
        if self._e10() != self._told_e10:
            await self._say_state(connection)

    async def _say_state(self, connection: Connection) -> None:
        self._told_e10 = self._e10()
        await self._publish(connection, "state", self._state(online=True, since=self._since, reason="connected"), retain=True)

    def health(self, items: Sequence[HealthItem]) -> bytes:
        # A station without a GPU, or whose clock cannot be asked, is well.
        counted = [item.status for item in items if item.name not in _OPTIONAL or item.status is not HealthStatus.UNKNOWN]
        worst = max(counted, key=_WORST.index, default=HealthStatus.UNKNOWN)
        entries = {
            item.name: {
                "status": item.status.value,
                "since": item.since,
                "cause": item.cause,
                "hint": item.hint,
                "facts": item.facts,
            }
            for item in items
        }
        return _body({"time": self._now(), "status": worst.value, "items": entries, "backlog": self._backlog()})

    def birth(self) -> bytes:
        return _body({"time": self._now(), **self._born(), "clock": self._clock()})

    def telemetry(self) -> bytes:
        return _body({"time": self._now(), "backlog": self._backlog(), **self._telemetry()})

    def _born(self) -> dict[str, Any]:
        config = self._config
        return {
            **plain(self._birth()),
            "version": __version__,
            "python": platform.python_version(),
            "hostname": socket.gethostname(),
            "source": config.station.source,
            "topic_base": self._base,
            "cameras": [{"name": camera.name, "recipe": camera.recipe} for camera in config.camera],
            "recipes": [{"name": recipe.name, "models": list(recipe.models)} for recipe in config.recipe],
            "schemas": [RESULT_SCHEMA, EVENT_SCHEMA],
            "config_sha256": self._config_sha256,
            "confirm": config.mqtt.confirm.value,
        }

    def _state(self, *, online: bool, since: datetime | None, reason: str) -> bytes:
        state = {"online": online, "since": since, "e10": self._e10() if online else None, "reason": reason}
        return _body({**state, "boot_id": self._boot_id, "version": __version__})

    async def _publish(
        self, connection: Connection, topic: str, body: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None
    ) -> None:
        """What the broker refuses is remembered in `refused`; nothing is sent again."""
        full = f"{self._base}/{topic}"
        properties = publish_properties(JSON, {}, expiry_s) if self._five else None
        limit = connection.maximum_packet_bytes
        if limit is not None and len(body) + 512 > limit:
            self.refused[full] = 0x95
            return
        code = await connection.publish(full, body, properties, qos=qos, retain=retain)
        if code >= 0x80:
            self.refused[full] = code
        else:
            self.refused.pop(full, None)


def _body(message: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(message), ensure_ascii=False, separators=(",", ":")).encode()
