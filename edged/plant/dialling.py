"""From the [mqtt] section to a socket on which a CONNECT was sent; and what to tell the technician when that fails.

Name lookup, TCP and TLS block, so they run in a thread. It may outlive its deadline (a name server that does not answer): what it opens
then is closed at once, and no second one is started beside it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from concurrent.futures import Future
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.config.peers import Mqtt, Protocol
from edged.errors import Unavailable

SESSION_S = 86_400
INBOUND_BYTES = 1 << 20
"""No message that we take is larger (`Maximum Packet Size` in our CONNECT)."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we are gone without a word."""

    topic: str
    body: bytes
    delay_s: int


class Refused(Unavailable):
    """It was reached and does not want us, or we do not trust it: only a person can change that, so it is not asked often."""


class Dialler:
    """Dials one broker, once at a time. `dial` raises Unavailable with one clear sentence."""

    def __init__(self, mqtt: Mqtt, client_id: str, will: Will, deadline_s: float = 10.0) -> None:
        self._mqtt, self._client_id, self._will, self.deadline_s = mqtt, client_id, will, deadline_s
        self._thread: threading.Thread | None = None

    @property
    def broker(self) -> str:
        return f"{self._mqtt.host}:{self._mqtt.port}"

    async def dial(self) -> paho.Client:
        """A client whose CONNECT is on its way; nothing of it was read yet."""
        if self._thread is not None and self._thread.is_alive():
            raise self.failure("the name lookup or TLS handshake of an earlier try still hangs", "Check the name server and the network.")
        client = self._client()
        answer: Future[None] = Future()

        def work() -> None:
            try:
                self._connect(client)
            except (OSError, ValueError) as error:  # ssl's and socket's errors are OSErrors; a bad host name is a ValueError
                answer.set_exception(error)
            else:
                answer.set_result(None)

        # A daemon thread: a name server that never answers must not hold up the end of the process.
        self._thread = threading.Thread(target=work, name="mqtt-dial", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            hint = "Raise TasksMax in the unit of edged, or its user's limit of processes."
            raise self.failure("no thread can be started to connect with", hint) from None
        waited = asyncio.wrap_future(answer)
        waited.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody may be left to hear what it says
        try:
            async with asyncio.timeout(self.deadline_s):
                await asyncio.shield(waited)
        except (TimeoutError, asyncio.CancelledError) as error:
            if not answer.done() or answer.exception() is None:
                answer.add_done_callback(lambda _late: _close(client))  # nobody waits for it any more
            if isinstance(error, TimeoutError):
                raise self._told(error) from None
            raise
        except (OSError, ValueError) as error:
            raise self._told(error) from error
        return client

    def _client(self) -> paho.Client:
        mqtt, will = self._mqtt, self._will
        five = mqtt.protocol is Protocol.V5
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if five else False,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # the publisher keeps the window
        client.connect_timeout = self.deadline_s
        properties = None
        if five:
            properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            properties.WillDelayInterval = will.delay_s
            properties.PayloadFormatIndicator = 1
        client.will_set(will.topic, will.body, qos=1, retain=True, properties=properties)
        return client

    def _connect(self, client: paho.Client) -> None:
        """In the thread. Passwords and certificates are read anew each time: they may have been replaced."""
        mqtt = self._mqtt
        if mqtt.username is not None or mqtt.password_file is not None:
            password = mqtt.password_file.read_text().rstrip("\r\n") if mqtt.password_file else None
            client.username_pw_set(mqtt.username or "", password)
        if mqtt.ca is not None:
            context = ssl.create_default_context(cafile=str(mqtt.ca))
            if mqtt.cert is not None:
                context.load_cert_chain(str(mqtt.cert), str(mqtt.key))
            client.tls_set_context(context)
        # paho notices a silent broker after two of its keepalive times.
        keepalive_s = max(2, mqtt.keepalive_s // 2)
        if mqtt.protocol is Protocol.V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_S
            properties.MaximumPacketSize = INBOUND_BYTES
            client.connect(mqtt.host, mqtt.port, keepalive_s, clean_start=False, properties=properties)
        else:
            client.connect(mqtt.host, mqtt.port, keepalive_s)

    def failure(self, cause: str, hint: str) -> Unavailable:
        return Unavailable(f"the MQTT broker {self.broker}", f"{self.broker}: {cause}", hint)

    def refusal(self, cause: str, hint: str) -> Refused:
        return Refused(f"the MQTT broker {self.broker}", f"{self.broker}: {cause}", hint)

    def _slow(self) -> Unavailable:
        return self.failure(f"no connection within {self.deadline_s:g} s", "Check the network, the name server and the broker.")

    def _told(self, error: OSError | ValueError) -> Unavailable:
        """The error in the technician's words; the order matters, since ssl's and socket's errors are all OSErrors."""
        mqtt = self._mqtt
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message or "not trusted"
            hint = CERTIFICATE.get(error.verify_code, "Correct [mqtt] ca = {ca}, host, or this machine's clock.")
            return self.refusal(f"its certificate is not accepted ({why})", hint.format(ca=mqtt.ca, host=mqtt.host))
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return self.failure("it ended the TLS handshake", "Look at the broker's log; the port may want no TLS.")
        if isinstance(error, ssl.SSLError):
            return self.refusal(
                f"TLS failed ({error.reason or error})", "Check [mqtt] ca, cert, key and port; the broker may want no TLS there."
            )
        if isinstance(error, socket.gaierror):
            return self.failure(f"the name {mqtt.host!r} is not known ({error.strerror})", "Correct [mqtt] host, or the name server.")
        if isinstance(error, ConnectionRefusedError):
            return self.failure("nothing listens there (connection refused)", "Start the broker, or correct [mqtt] host and port.")
        if isinstance(error, TimeoutError):
            return self._slow()
        if isinstance(error, OSError) and error.filename is not None:
            return self.failure(f"cannot read {error.filename} ({error.strerror})", "Correct the path in [mqtt], or the file's owner.")
        if isinstance(error, OSError):
            return self.failure(f"cannot be reached ({error.strerror or error})", "Check the network and [mqtt] host and port.")
        return self.failure(f"cannot be dialled ({error})", "Correct [mqtt].")


def _close(client: paho.Client) -> None:
    if (left := client.socket()) is not None:
        left.close()


_WHOSE = "Correct [mqtt] ca = {ca}: it must be the authority that signed the broker's certificate."
_NAMED = "Set [mqtt] host to a name that stands in the broker's certificate, or give the broker one that names {host}."
CERTIFICATE = {
    9: "Correct this machine's clock, or wait until the broker's certificate is valid.",
    10: "Have the broker's certificate renewed, or correct this machine's clock.",
    18: _WHOSE,
    19: _WHOSE,
    20: _WHOSE,
    62: _NAMED,
    64: _NAMED,
}
"""OpenSSL's verification error -> what to do; 62 and 64: another host name or address."""

REFUSALS = {
    0x84: ("it does not speak this version of MQTT", 'Set [mqtt] protocol = "3.1.1"; refusals of messages are then invisible.'),
    0x85: ("it refuses our client id", "Change [station] tool or instance, or let the broker accept it."),
    0x86: ("it refuses the user name or password", "Correct [mqtt] username and password_file."),
    0x87: ("it does not authorise us", "Correct [mqtt] username, password_file or cert, or the broker's access list."),
    0x88: ("it is not available", "Look at the broker's log."),
    0x89: ("it is busy", "Look at the broker's load."),
    0x8A: ("it has banned us", "Look at the broker's log."),
    0x8C: ("it refuses our way to authenticate", "Correct [mqtt] username, password_file or cert."),
    0x8D: ("it heard nothing from us for the keepalive time", "Look at the load of this machine and the network."),
    0x8E: (
        "another client with our client id took over the session",
        "Two instances have the same [station] tool and instance: change one.",
    ),
    0x95: ("it refuses a packet of this size", "Raise the broker's packet size limit."),
    0x97: ("our quota there is used up", "Raise the broker's quota for this client."),
    0x9F: ("it limits how often we may connect", "Raise the broker's connection rate limit."),
}
"""CONNACK and DISCONNECT reason codes: what the broker says, and what to do."""

REFUSES = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E, 0x97, 0x9F})
"""Of those: trying again soon changes nothing; with 0x8E two instances would throw each other out all day."""


def told_reason(code: int, name: str) -> tuple[str, str]:
    """Cause and hint of a reason code; `name` is the code's own name."""
    return REFUSALS.get(code, (f"it said {name} (0x{code:02X})", "Look at the broker's log."))
