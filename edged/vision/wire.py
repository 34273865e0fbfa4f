"""What the daemon and a decoder process say to each other: JSON in one SOCK_SEQPACKET message each, and one shared byte for the phase.

JSON, not pickle: a decoder that a hostile image took over must not be able to run code in the daemon.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edged.nouns import Geometry, ImageFacts

MAX_MESSAGE = 1 << 18
RING, PLANS, FORGET = "ring", "plans", "forget"

IDLE, OPENING, READING, DECODING, PREPARING, REFERENCE = b"I", b"O", b"R", b"D", b"P", b"G"
AT_THE_FOLDER = frozenset((OPENING, READING, REFERENCE))
"""Phases in which a hang is the file system's fault, not the image's."""
AT_WORK = AT_THE_FOLDER | {DECODING, PREPARING}


class Phase:
    """One byte of shared memory: what the process is doing."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def set(self, phase: bytes) -> None:
        self._memory[0:1] = phase

    def get(self) -> bytes:
        return bytes(self._memory[0:1])


@dataclass(frozen=True, slots=True)
class Job:
    """One request: prepare (the rest of) one page of one file.

    `done[i]`: tensors of plan i that earlier requests for this page already made. `slots`: [plan, ring, slot] to fill. Without `plans`
    only the file's facts are asked for. `sha256`: what an earlier request found; other content now is a change.
    """

    number: int
    folder: str
    path: str
    size: int
    mtime_ns: int
    inode: int
    plans: int | None
    page: int = 0
    done: tuple[int, ...] = ()
    slots: tuple[tuple[int, int, int], ...] = ()
    reference: str | None = None
    sha256: str | None = None

    def to_wire(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Job:
        return cls(**data)


def image_to_wire(image: ImageFacts) -> dict[str, Any]:
    return asdict(image) | {"acquired": image.acquired.isoformat() if image.acquired else None}


def image_from_wire(data: Mapping[str, Any]) -> ImageFacts:
    stamp = data["acquired"]
    return ImageFacts(**{**data, "acquired": datetime.fromisoformat(stamp) if stamp else None})


def geometry_to_wire(g: Geometry) -> list[Any]:
    return [g.scale_x, g.scale_y, g.offset_x, g.offset_y, g.valid, g.tile, g.tiles]


def geometry_from_wire(data: list[Any]) -> Geometry:
    scale_x, scale_y, offset_x, offset_y, (x, y, w, h), tile, tiles = data
    return Geometry(float(scale_x), float(scale_y), float(offset_x), float(offset_y), (x, y, w, h), int(tile), int(tiles))
