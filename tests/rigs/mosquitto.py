"""The real Mosquitto broker, one process for each test that wants one, on a free loopback port.

Fixtures
- `broker`: a broker that takes anyone, with persistence; a fresh one for each test.
- `start_broker`: a function `start_broker(**options) -> Broker`, options as in `BrokerOptions`; ended after the test.

    def test_x(start_broker):
        broker = start_broker(users={"edged": "secret"}, acl="user edged\\ntopic write plant/#\\n")
        mes = broker.listen("plant/#", user="edged", password="secret")
        ...
        assert mes.wait_for(1)[0].topic == "plant/result"
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

from rigs.processes import LOOPBACK, free_port, freeze, listening, wait_gone, wait_until, with_parent

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What may be chosen.

    `users`: name -> password; empty: anyone may connect. `acl`: text of Mosquitto's acl_file. `port`: 0 takes a free one.
    `persistence`: sessions and retained messages survive `stop` and `restart`. `max_packet_size`: bytes that a client may send in one
    packet (the broker names it in its CONNACK). `extra`: further lines of mosquitto.conf. `host`: where it listens. `inside`: what its
    command stands behind, to start it in another network namespace.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    acl: str | None = None
    port: int = 0
    persistence: bool = True
    max_packet_size: int | None = None
    extra: str = ""
    host: str = LOOPBACK
    inside: tuple[str, ...] = ()


HIDDEN = {"packetType", "types", "names", "properties"}  # how paho describes properties, not what was sent


def said(properties: Properties | None) -> dict[str, Any]:
    """MQTT 5 properties by paho's attribute name."""
    return {} if properties is None else {name: value for name, value in vars(properties).items() if name not in HIDDEN}


@dataclass(frozen=True, slots=True)
class Received:
    """One message as a subscriber got it. `properties`: MQTT 5 properties by paho's attribute name."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Mapping[str, Any]


class Listener:
    """A subscriber as the MES would be: keeps every message it gets in `messages`; `connack`: what the broker said on connecting.

    Runs paho in its own thread.
    """

    def __init__(self, port: int, topic: str, qos: int, user: str | None, password: str | None, client_id: str = "") -> None:
        self.messages: list[Received] = []
        self.connack: Mapping[str, Any] = {}
        self._ready = threading.Event()
        self._refusal: str | None = None
        self._topic, self._qos = topic, qos
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        if user is not None:
            self._client.username_pw_set(user, password)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda _c, _u, _mid, codes, _p: self._settle(next((str(c) for c in codes if c.is_failure), None))
        self._client.on_message = self._received
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        if not self._ready.wait(10) or self._refusal:
            self.close()
            raise AssertionError(f"the broker did not let the subscriber in: {self._refusal or 'no answer in 10 s'}")

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, properties: Properties | None) -> None:
        self.connack = said(properties)
        if code.is_failure:
            self._settle(str(code))
        else:
            client.subscribe(self._topic, qos=self._qos)

    def _settle(self, refusal: str | None) -> None:
        self._refusal = refusal
        self._ready.set()

    def _received(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.messages.append(Received(message.topic, message.payload, message.qos, message.retain, said(message.properties)))

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """The messages once there are at least `count`; AssertionError after `timeout_s`. In a coroutine: `asyncio.to_thread`."""
        wait_until(lambda: len(self.messages) >= count, timeout_s, f"{count} messages on {self._topic}; there are {len(self.messages)}")
        return list(self.messages)

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        qos: int = 1,
        retain: bool = False,
        properties: Properties | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Publishes over the same connection and waits for the broker's acknowledgement; RuntimeError if none came in `timeout_s`."""
        sent = self._client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(timeout_s)
        if not sent.is_published():
            raise RuntimeError(f"the broker did not acknowledge the message on {topic} in {timeout_s:g} s")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        if (left := self._client.socket()) is not None:  # paho leaves it open when the broker refused or went away
            left.close()


class Broker:
    """One Mosquitto. `port`, `address` stay the same over `restart`; `log` is what it said; `home` holds its files."""

    def __init__(self, home: Path, options: BrokerOptions) -> None:
        self.home, self.options = home, options
        self.port = options.port
        self.log = home / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._listeners: list[Listener] = []

    @property
    def address(self) -> str:
        return f"{self.options.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "this broker is not running"
        return self._process.pid

    def _program(self, name: str) -> str:
        found = shutil.which(name, path=PROGRAMS)
        if found is None:
            pytest.fail(f"{name} is not on this machine: run scripts/setup, which installs Mosquitto", pytrace=False)
        return found

    def _write_config(self) -> Path:
        options, lines = self.options, [f"listener {self.port} {self.options.host}", "set_tcp_nodelay true"]
        if os.getuid() == 0:
            lines.append("user root")  # else it drops to a user that cannot write in the test's folder
        lines.append(f"allow_anonymous {'false' if options.users else 'true'}")
        if options.users:
            passwords = self.home / "passwords"
            passwords.touch(mode=0o600)
            for name, password in options.users.items():
                command = [self._program("mosquitto_passwd"), "-b", str(passwords), name, password]
                subprocess.run(command, check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        if options.acl is not None:
            (self.home / "acl").write_text(options.acl)
            lines.append(f"acl_file {self.home / 'acl'}")
        if options.persistence:
            lines += ["persistence true", f"persistence_location {self.home}/"]
        if options.max_packet_size is not None:
            lines.append(f"max_packet_size {options.max_packet_size}")
        config = self.home / "mosquitto.conf"
        config.write_text("\n".join([*lines, options.extra, ""]))
        return config

    def start(self) -> None:
        """Starts it (on the port it had before, if any) and returns when it listens; AssertionError with its words if it does not."""
        assert self._process is None, "this broker is running"
        for _attempt in range(5):
            fixed, self.port = self.port, self.port or free_port()
            command = with_parent([*self.options.inside, self._program("mosquitto"), "-v", "-c", str(self._write_config())])
            with self.log.open("ab") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            wait_until(lambda: process.poll() is not None or listening(self.port, self.options.host), 10, "Mosquitto listens")  # noqa: B023
            if process.poll() is None:
                self._process = process
                return
            self.port = fixed  # another program took the free port meanwhile: take the next
        raise AssertionError(f"Mosquitto did not start: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM and wait: it saves its persistence file."""
        self._signal_and_wait(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: what it had not saved is gone (by default it saves every 30 minutes and when it is stopped)."""
        self._signal_and_wait(signal.SIGKILL)

    def _signal_and_wait(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        wait_gone(self._process, 10)
        self._process = None

    def restart(self) -> None:
        """Stops it if it runs, and starts it on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and new ones are taken by the kernel, nothing answers."""
        freeze(self.pid)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def listen(self, topic: str = "#", qos: int = 1, user: str | None = None, password: str | None = None) -> Listener:
        """A subscriber that is connected and subscribed when this returns; closed with the broker's fixture."""
        listener = Listener(self.port, topic, qos, user, password)
        self._listeners.append(listener)
        return listener

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self.stop()


@pytest.fixture
def start_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Broker]]:
    """`start_broker(**options) -> Broker`, running; options as in `BrokerOptions`."""
    brokers: list[Broker] = []

    def start(**options: Any) -> Broker:
        broker = Broker(tmp_path_factory.mktemp("mosquitto"), BrokerOptions(**options))
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.close()


@pytest.fixture
def broker(start_broker: Callable[..., Broker]) -> Broker:
    """A running broker that takes anyone."""
    return start_broker()
