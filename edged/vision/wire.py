"""What the daemon and a decoder process say to each other: JSON in one SOCK_SEQPACKET message each, and one shared byte for the phase.

JSON, not pickle: a decoder that a hostile image took over must not be able to run code in the daemon.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
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
    """A little shared memory: what the process is doing (byte 0), for which job (bytes 8 to 16)."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def set(self, phase: bytes) -> None:
        self._memory[0:1] = phase

    def get(self) -> bytes:
        return bytes(self._memory[0:1])

    def begin(self, number: int) -> None:
        self._memory[8:16] = number.to_bytes(8, "little")

    def number(self) -> int:
        return int.from_bytes(self._memory[8:16], "little")


@dataclass(frozen=True, slots=True)
class Job:
    """One request: prepare (the rest of) one page of one file.

    `done[i]`: tensors of plan i that earlier requests for this page already made. `slots`: [plan, ring, slot] to fill. Without `plans`
    only the file's facts are asked for. `reference`: where the golden one may lie; the first that is a file counts. `sha256`: what an
    earlier request found; other content now is a change.
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
    reference: tuple[str, ...] = ()
    sha256: str | None = None

    def to_wire(self) -> list[Any]:
        """In the order of the fields."""
        return [
            self.number, self.folder, self.path, self.size, self.mtime_ns, self.inode, self.plans, self.page, self.done, self.slots,
            self.reference, self.sha256,
        ]  # fmt: skip


def image_to_wire(i: ImageFacts) -> list[Any]:
    taken = i.acquired.isoformat() if i.acquired else None
    return [i.sha256, i.bytes, i.media_type, i.page, i.pages, i.width, i.height, i.bits, i.channels, taken, i.acquired_from]


def image_from_wire(data: list[Any]) -> ImageFacts:
    sha256, nbytes, media_type, page, pages, width, height, bits, channels, taken, source = data
    acquired = datetime.fromisoformat(taken) if taken else None
    return ImageFacts(sha256, nbytes, media_type, page, pages, width, height, bits, channels, acquired, source)


def geometry_to_wire(g: Geometry) -> list[Any]:
    return [g.scale_x, g.scale_y, g.offset_x, g.offset_y, g.valid, g.tile, g.tiles]


def geometry_from_wire(data: list[Any]) -> Geometry:
    scale_x, scale_y, offset_x, offset_y, (x, y, w, h), tile, tiles = data
    return Geometry(float(scale_x), float(scale_y), float(offset_x), float(offset_y), (x, y, w, h), int(tile), int(tiles))
