"""MQTT 5 properties of a PUBLISH as bytes, and the size of its packet. Pure.

paho's own Properties cost more to build than the rest of a message; the publisher needs four kinds of them, and their exact size.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from paho.mqtt.properties import Properties

CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"
JSON = "application/json; charset=utf-8"


class Packed(Properties):
    """Properties that are packed already; paho only ever asks for `pack()`."""

    def __init__(self, packed: bytes) -> None:
        object.__setattr__(self, "_packed", packed)

    def pack(self) -> bytes:
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed

    def __str__(self) -> str:
        return f"[{len(self.pack())} bytes]"


def varint(number: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | 0x80 if number else digit)
        if not number:
            return bytes(out)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


@lru_cache(maxsize=4096)
def _user(key: str, value: str) -> bytes:
    """Most pairs come again and again: type, schema, lot, wafer, verdict."""
    return b"\x26" + _string(key) + _string(value)


def publish_properties(content_type: str, user: Mapping[str, str], expiry_s: int | None = None) -> Packed:
    """UTF-8 payload, content type, user properties, and after how many seconds the broker drops an undelivered message."""
    parts = [b"\x01\x01\x03", _string(content_type)]
    if expiry_s is not None:
        parts.append(b"\x02" + struct.pack("!I", expiry_s))
    for key, value in user.items():
        parts.append(_user(key, value))
    packed = b"".join(parts)
    return Packed(varint(len(packed)) + packed)


def packet_size(topic: str, body: bytes, properties: Packed | None) -> int:
    """Bytes of the whole PUBLISH packet at QoS 1."""
    remaining = 2 + len(topic.encode()) + 2 + (len(properties.pack()) if properties else 0) + len(body)
    return 1 + len(varint(remaining)) + remaining
