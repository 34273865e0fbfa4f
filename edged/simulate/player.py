"""Plays an inspection tool's camera PC: drops images into a folder the ways such PCs do.

Every drop is remembered with the sha256 of what was written, so that somebody can later ask for each of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Style(StrEnum):
    """How a camera PC writes a file.

    `rename`: to a temporary name, then renamed into place. `inplace`: at once under its name. `slow`: in pieces with pauses.
    `preallocated`: full size of zeros first, then filled (what a copy over SMB looks like).
    """

    RENAME = "rename"
    INPLACE = "inplace"
    SLOW = "slow"
    PREALLOCATED = "preallocated"


@dataclass(frozen=True, slots=True)
class Dropped:
    """One image that landed: `at` is the wall clock (s) when its last byte was in place under its name."""

    path: Path
    sha256: str
    style: Style
    at: float


async def drop(path: Path, data: bytes, style: Style, *, pause_s: float = 0.05) -> Dropped:
    """Writes `data` to `path` in the given style; existing content is replaced."""
    if style is Style.RENAME:
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(data)
        temporary.rename(path)
    elif style is Style.INPLACE:
        path.write_bytes(data)
    else:
        await _in_pieces(path, data, preallocate=style is Style.PREALLOCATED, pause_s=pause_s)
    return Dropped(path, hashlib.sha256(data).hexdigest(), style, time.time())


async def _in_pieces(path: Path, data: bytes, *, preallocate: bool, pause_s: float) -> None:
    step = max(1, len(data) // 6)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (0 if preallocate else os.O_TRUNC), 0o644)
    try:
        if preallocate:
            os.ftruncate(descriptor, 0)
            os.ftruncate(descriptor, len(data))
        for at in range(0, len(data), step):
            os.pwrite(descriptor, data[at : at + step], at)
            await asyncio.sleep(pause_s)
    finally:
        os.close(descriptor)


def truncated(data: bytes) -> bytes:
    """As left behind by a camera PC that died half way."""
    return data[: max(1, len(data) * 2 // 3)]


def corrupted(data: bytes) -> bytes:
    """Complete from first to last byte, but damaged within the header that tells the image's size, so that no decoder accepts it."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return data[:16] + b"\x00\x00\x00\x00" + data[20:]  # width 0; the chunk's CRC no longer fits either
    if data[:2] == b"\xff\xd8":
        return data[:2] + data[2:].replace(b"\xff\xc0", b"\xff\xc3", 1)  # baseline frame becomes lossless: no entropy decoder fits
    return data[:64] + bytes(len(data) - 64)


async def paced(count: int, rate_per_s: float, monotonic: Callable[[], float] = time.monotonic) -> AsyncIterator[int]:
    """Counts 0, 1, 2 ... at `rate_per_s`; `count` 0 means until cancelled. A slow consumer is not caught up with in a burst."""
    number, due = 0, monotonic()
    while count == 0 or number < count:
        await asyncio.sleep(max(0.0, due - monotonic()))
        yield number
        number += 1
        due = max(due + 1.0 / rate_per_s, monotonic() - 1.0 / rate_per_s)
