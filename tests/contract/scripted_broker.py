"""A broker that answers as it is told: for answers that Mosquitto cannot be made to give. Speaks just enough MQTT 5 for a publisher."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CONNECT, PUBLISH, PINGREQ, DISCONNECT = 1, 3, 12, 14


class ScriptedBroker:
    """`answer(topic, body)` gives the PUBACK's reason code, None for no answer. `most`: the most messages that waited for an answer."""

    def __init__(self, answer: Callable[[str, bytes], int | None], receive_maximum: int = 65_535, delay_s: float = 0.0) -> None:
        self.answer, self.receive_maximum, self.delay_s = answer, receive_maximum, delay_s
        self.got: list[tuple[str, bytes]] = []
        self.waiting = self.most = self.connections = self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                kind, packet = await _packet(reader)
                if kind == CONNECT:
                    properties = b"\x21" + struct.pack("!H", self.receive_maximum)
                    writer.write(bytes([0x20, 3 + len(properties), 0, 0, len(properties)]) + properties)
                elif kind == PINGREQ:
                    writer.write(b"\xd0\x00")
                elif kind == DISCONNECT:
                    return
                elif kind == PUBLISH | 0x100:
                    self._take(writer, packet)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _take(self, writer: asyncio.StreamWriter, packet: bytes) -> None:
        length = struct.unpack_from("!H", packet)[0]
        topic, number = packet[2 : 2 + length].decode(), packet[2 + length : 4 + length]
        size, start = _varint(packet, 4 + length)
        body = packet[start + size :]
        self.got.append((topic, body))
        code = self.answer(topic, body)
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def acknowledge() -> None:
            self.waiting -= 1
            if code is not None and not writer.is_closing():
                writer.write(b"\x40\x04" + number + bytes([code, 0]))

        asyncio.get_running_loop().call_later(self.delay_s, acknowledge)


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Kind (a PUBLISH at QoS 1 has 0x100 beside it) and what comes after the fixed head."""
    first = (await reader.readexactly(1))[0]
    size = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            break
    kind = first >> 4
    return (kind | 0x100 if kind == PUBLISH and first & 0x06 else kind), await reader.readexactly(size)


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number and where it ends."""
    number = shift = 0
    while True:
        digit = data[start]
        number |= (digit & 0x7F) << shift
        shift, start = shift + 7, start + 1
        if not digit & 0x80:
            return number, start


@asynccontextmanager
async def scripted(answer: Callable[[str, bytes], int | None], **options: float) -> AsyncIterator[ScriptedBroker]:
    broker = ScriptedBroker(answer, **options)  # type: ignore[arg-type]
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
        await server.wait_closed()
