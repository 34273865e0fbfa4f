"""One connection to the broker: paho on the event loop, its answers as callbacks, its loss as a future.

Invariants
- A `Connection` lives from an accepting CONNACK to its loss and is never used again: paho keeps no message from one to the next, the
  outbox is the only queue.
- Everything here runs on the loop; paho has no thread. Sockets are read and written only when they are ready.
- Every message that was sent gets exactly one answer: its PUBACK's reason code, or None when the connection went first.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.errors import Unavailable
from edged.plant.dialling import REFUSES, Dialler, Refused, told_reason
from edged.plant.packing import Packed

Answer = Callable[[int | None], None]
Inbound = Callable[[str, bytes, bool], None]
"""Topic, body, retained."""
TURN_S = 1.0


class ConnectionLost(Exception):  # noqa: N818 - it names what happened
    """The connection went before the broker answered."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a connection ended. `cause` is empty where we ended it. `excused`: no message of ours can have been the reason. `silent`: the
    other end only fell silent. `refused`: only a person can change what the broker objects to."""

    cause: str = ""
    hint: str = ""
    excused: bool = False
    silent: bool = False
    refused: bool = False


EXCUSED = frozenset({0x89, 0x8B, 0x8D, 0x8E, 0x98, 0x9C, 0x9D})
"""DISCONNECT reasons: busy, shutting down, keepalive, session taken over, administrative action, use another server, server moved."""


class Connection:
    """`lost` is done, with its `Loss`, when the connection is gone.

    `receive_maximum`: how many unanswered messages the broker allows. `maximum_packet_bytes`: None without a limit. `answered`: a PUBACK
    came on this connection. `outstanding`: messages sent and not answered, `outstanding_at_loss` the same at its end.
    `session_present`: the broker kept our subscriptions. `reserved`: a message that may be poison is alone on its way: nobody else sends.
    """

    def __init__(self, client: paho.Client, dialler: Dialler, inbound: Inbound) -> None:
        self._client, self._dialler, self._inbound = client, dialler, inbound
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Answer] = {}
        self._subscribed: dict[int, asyncio.Future[int]] = {}
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[Loss] = self._loop.create_future()
        self.receive_maximum = 65_535
        self.maximum_packet_bytes: int | None = None
        self.session_present = False
        self.answered = False
        self.reserved = False
        self.outstanding_at_loss = 0
        self.since = time.monotonic()
        self._socket: socket.socket | None = None
        self._closing = False

    @classmethod
    async def open(cls, dialler: Dialler, inbound: Inbound) -> Connection:
        """Unavailable, with one sentence for the technician, when the broker cannot be reached or does not let us in."""
        connection = cls(await dialler.dial(), dialler, inbound)
        connection._attach()
        try:
            await first(connection._accepted, connection.lost, timeout_s=dialler.deadline_s)
        except asyncio.CancelledError:
            connection.drop()
            raise
        if connection.lost.done():
            loss = connection.lost.result()
            raise (Refused if loss.refused else Unavailable)(f"the MQTT broker {dialler.broker}", loss.cause, loss.hint)
        if not connection._accepted.done():
            connection.drop()
            raise dialler.failure(
                f"it took the connection but did not answer within {dialler.deadline_s:g} s",
                "Check that [mqtt] port is the broker's and wants the TLS that is configured; look at the broker's log.",
            )
        return connection

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    def send(self, topic: str, body: bytes, properties: Packed | None, answer: Answer, *, qos: int = 1, retain: bool = False) -> None:
        """Sends one message; `answer` is called once, on the loop, never from within this call. It must not send itself."""
        if self.lost.done():
            self._loop.call_soon(answer, None)
            return
        info = self._client.publish(topic, body, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            self._loop.call_soon(answer, None)
        else:
            self._waiting[info.mid] = answer

    async def publish(self, topic: str, body: bytes, properties: Packed | None, *, qos: int = 1, retain: bool = False) -> int:
        """The PUBACK's reason code (0 at once for QoS 0); ConnectionLost."""
        answer: asyncio.Future[int | None] = self._loop.create_future()
        self.send(topic, body, properties, lambda code: None if answer.done() else answer.set_result(code), qos=qos, retain=retain)
        code = await answer
        if code is None:
            raise ConnectionLost
        return code

    async def subscribe(self, topic: str) -> int:
        """Subscribes at QoS 1; the SUBACK's reason code, 0x80 and above is a refusal. ConnectionLost."""
        rc, mid = self._client.subscribe(topic, qos=1)
        if rc != paho.MQTT_ERR_SUCCESS or mid is None:
            raise ConnectionLost
        answer: asyncio.Future[int] = self._loop.create_future()
        self._subscribed[mid] = answer
        await first(answer, self.lost)
        if not answer.done():
            raise ConnectionLost
        return answer.result()

    async def close(self, timeout_s: float = 1.0) -> None:
        """A clean DISCONNECT: the broker discards the Will."""
        if not self.lost.done():
            self._closing = True
            self._client.disconnect()
            await asyncio.wait({self.lost}, timeout=timeout_s)
        self.drop()

    def drop(self, loss: Loss | None = None) -> None:
        """Ends the connection without a word to the broker, which will say our Will."""
        if self._socket is not None:
            left, self._socket = self._socket, None
            if left.fileno() >= 0:
                self._loop.remove_reader(left)
                self._loop.remove_writer(left)
                left.close()
        self._gone(loss or Loss())

    def _attach(self) -> None:
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_register_write = lambda _c, _u, sock: self._loop.add_writer(sock, client.loop_write)
        client.on_socket_unregister_write = self._on_nothing_to_write
        client.on_socket_close = self._on_socket_close
        sock: Any = client.socket()
        if sock is None:  # lost while the CONNECT was written
            self._gone(Loss(f"{self._dialler.broker}: the connection was closed at once", "Look at the broker's log."))
            return
        self._socket = sock
        self._loop.add_reader(sock, self._readable)
        if client.want_write():
            self._loop.add_writer(sock, client.loop_write)
        self._loop.call_later(TURN_S, self._turn)

    def _readable(self) -> None:
        self._client.loop_read()
        # What TLS has decrypted already, select() does not see.
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._client.loop_read()

    def _turn(self) -> None:
        """Pings, and notices a broker that no longer answers them."""
        if not self.lost.done():
            self._client.loop_misc()
            self._loop.call_later(TURN_S, self._turn)

    def _on_socket_close(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        self._socket = None
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_nothing_to_write(self, _client: paho.Client, _data: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _on_connect(self, _c: paho.Client, _d: Any, flags: paho.ConnectFlags, code: ReasonCode, properties: Properties | None) -> None:
        if code.is_failure:
            cause, hint = told_reason(code.value, code.getName())
            self._gone(Loss(f"{self._dialler.broker}: {cause}", hint, refused=code.value in REFUSES))
            return
        self.session_present = flags.session_present
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        self.maximum_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        if not self._accepted.done():
            self._accepted.set_result(None)

    def _on_disconnect(self, _c: paho.Client, _d: Any, flags: paho.DisconnectFlags, code: ReasonCode, _p: Properties | None) -> None:
        broker = self._dialler.broker
        if flags.is_disconnect_packet_from_server and code.value:
            cause, hint = told_reason(code.value, code.getName())
            ended = f"{broker}: the connection was ended: {cause}"
            self._gone(Loss(ended, hint, excused=code.value in EXCUSED, refused=code.value in REFUSES))
        elif self._closing:
            self._gone(Loss())
        elif code.getName() == "Keep alive timeout":
            self._gone(Loss(f"{broker}: it no longer answers", "The broker hangs or the network is cut: check both.", silent=True))
        else:
            self._gone(Loss(f"{broker}: the connection was lost", "Look at the broker's log; edged connects again by itself."))

    def _gone(self, loss: Loss) -> None:
        if self.lost.done():
            return
        self.outstanding_at_loss = len(self._waiting)
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer(None)
        self.lost.set_result(loss)

    def _on_publish(self, _c: paho.Client, _d: Any, mid: int, code: ReasonCode, _p: Properties) -> None:
        self.answered = True
        answer = self._waiting.pop(mid, None)
        if answer is not None:
            answer(code.value)

    def _on_subscribe(self, _c: paho.Client, _d: Any, mid: int, codes: list[ReasonCode], _p: Properties) -> None:
        answer = self._subscribed.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(max(code.value for code in codes))

    def _on_message(self, _c: paho.Client, _d: Any, message: paho.MQTTMessage) -> None:
        self._inbound(message.topic, bytes(message.payload), message.retain)


async def first(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Until one of them is done."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
