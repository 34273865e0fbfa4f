"""The MES at the broker: a session that outlives connections, every arrival kept, and acknowledgements where they are asked for."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from rigs.processes import LOOPBACK, wait_until


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message of the outbox as it came in. `body` is what the broker gave, byte by byte."""

    topic: str
    kind: str
    epoch: str
    sequence: int
    id: str
    body: bytes
    said: dict[str, Any] = field(compare=False, repr=False)


class Mes:
    """`arrivals`: every message of the outbox in the order in which it came, repeated ones too. Runs paho in its own thread.

    `acks`: each arrival is acknowledged as the contract says. `expiry_s`: how long the broker keeps the session while we are away.
    """

    def __init__(
        self, port: int, base: str, *, client_id: str = "mes", expiry_s: int = 86_400, acks: bool = False, host: str = LOOPBACK
    ) -> None:
        self.arrivals: list[Arrival] = []
        self.acks = acks
        self._base, self._host, self._port, self._client_id = base, host, port, client_id
        self._subscribed = threading.Event()
        self._lock = threading.Lock()
        self._properties = Properties(PacketTypes.CONNECT)
        self._properties.SessionExpiryInterval = expiry_s
        self.connect()

    def connect(self) -> None:
        """Comes back to its session; returns when it is subscribed."""
        self._subscribed.clear()
        # A new one each time: paho leaves its sockets behind when its thread is started twice.
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=mqtt.MQTTv5)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._received
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(self._host, self._port, keepalive=10, clean_start=False, properties=self._properties)
        self._client.loop_start()
        if not self._subscribed.wait(20):
            raise AssertionError("the broker did not take the MES's subscription in 20 s")

    def leave(self) -> None:
        """A clean end: the broker goes on collecting for the session."""
        self._client.disconnect()
        self._client.loop_stop()

    def close(self) -> None:
        self.leave()
        if (left := self._client.socket()) is not None:
            left.close()

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if not code.is_failure:
            client.subscribe([(f"{self._base}/{kind}/#", mqtt.SubscribeOptions(qos=1)) for kind in ("result", "wafer", "event")])

    def _received(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        said = json.loads(message.payload)
        arrival = Arrival(message.topic, said["kind"], said["epoch"], int(said["sequence"]), said["id"], message.payload, said)
        with self._lock:
            self.arrivals.append(arrival)
        if self.acks:
            client.publish(f"{self._base}/ack", json.dumps(self.ack(said["source"], arrival.epoch, arrival.kind)), qos=1)

    def ack(self, source: str, epoch: str, kind: str) -> dict[str, Any]:
        """What the MES has of (epoch, kind) by now, in the contract's words."""
        with self._lock:
            there = sorted({each.sequence for each in self.arrivals if (each.epoch, each.kind) == (epoch, kind)})
        missing, expected = [], 1
        for number in there:
            if number > expected:
                missing.append([expected, number - 1])
            expected = number + 1
        return {"source": source, "epoch": epoch, "kind": kind, "up_to_sequence": there[-1] if there else 0, "missing": missing}

    def results(self) -> list[Arrival]:
        with self._lock:
            return [each for each in self.arrivals if each.kind == "result"]

    def forget(self) -> dict[tuple[str, str], int]:
        """Forgets all arrivals; returns the last number of each (epoch, kind)."""
        with self._lock:
            arrivals, self.arrivals = self.arrivals, []
        last: dict[tuple[str, str], int] = {}
        for each in arrivals:
            last[each.epoch, each.kind] = max(each.sequence, last.get((each.epoch, each.kind), 0))
        return last

    def events(self, kind: str) -> list[dict[str, Any]]:
        """`data` of every event of this kind, each id once."""
        with self._lock:
            found = {each.id: each.said["data"] for each in self.arrivals if each.topic == f"{self._base}/event/{kind}"}
        return list(found.values())

    def wait_for_event(self, kind: str, timeout_s: float = 20) -> dict[str, Any]:
        """The first of this kind; AssertionError after `timeout_s`."""
        wait_until(lambda: bool(self.events(kind)), timeout_s, f"the MES hears event/{kind}")
        return self.events(kind)[0]
