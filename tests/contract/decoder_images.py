"""Files as cameras, accidents and attackers leave them, and landings for them."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.config import Preprocess
from edged.nouns import HealthStatus, Identity, InputPlan, Landing


@dataclass
class Notes:
    """A health board that remembers what it was told."""

    said: list[tuple[str, HealthStatus, str]] = field(default_factory=list)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.said.append((name, status, cause))


def landing(path: Path, camera: str = "top") -> Landing:
    found = path.lstat()
    return Landing(
        camera, str(path.parent), os.fsencode(path.name), found.st_size, found.st_mtime_ns, found.st_ino,
        Identity(), "r", datetime.now(UTC), 0.0, 0.0,
    )  # fmt: skip


def plan(
    width: int = 64, height: int = 48, *, channels: int = 1, dtype: str = "UINT8", model: str = "m", reference: bool = False, **keys: Any
) -> InputPlan:
    steps = Preprocess(width_px=width, height_px=height, **keys)
    return InputPlan(model, steps, (channels, height, width), dtype, reference)


def wafer(height: int, width: int, seed: int = 1) -> NDArray[np.uint8]:
    """Dies, noise and an uneven lamp: compresses like a real frame."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dies = 90 + 45 * (np.sin(x / 9) > 0.3) + 30 * (np.sin(y / 13) > 0.5) + 20 * x / width
    return np.clip(dies + np.random.default_rng(seed).normal(0, 4, dies.shape), 0, 255).astype(np.uint8)


def write(path: Path, page: NDArray[Any], *options: int) -> Path:
    assert cv2.imwrite(str(path), page, options)
    return path


def encoded(suffix: str, page: NDArray[Any]) -> bytes:
    done, data = cv2.imencode(suffix, page)
    assert done
    return data.tobytes()


def png(width: int, height: int, bits: int = 8, colour: int = 0, rows: Iterable[bytes] = (), level: int = 9) -> bytes:
    """A PNG that claims this size; its pixel data is what `rows` say, however little that is."""
    packer = zlib.compressobj(level)
    body = b"".join(packer.compress(row) for row in rows) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpeg_claiming(width: int, height: int) -> bytes:
    """A sound small JPEG whose frame header was patched."""
    data = bytearray(encoded(".jpg", wafer(64, 64)))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def jpeg_garbled() -> bytes:
    """A JPEG with a stretch of its pixel data overwritten: libjpeg makes an image of it and mutters."""
    data = bytearray(encoded(".jpg", wafer(480, 640)))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(range(1, 201)) * 2
    return bytes(data)


def tiff_pages(path: Path, *pages: NDArray[Any]) -> Path:
    assert cv2.imwritemulti(str(path), list(pages), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return path


def tiff_directories(data: bytes) -> list[int]:
    """Where the directories of a little-endian TIFF lie, and behind them where each one's pointer to the next is written."""
    offsets, (at,) = [], struct.unpack_from("<I", data, 4)
    while at:
        offsets.append(at)
        (count,) = struct.unpack_from("<H", data, at)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)
    return offsets


def next_pointer(data: bytes, directory: int) -> int:
    return directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0]


def tiff_looping(tmp: Path) -> bytes:
    data = bytearray(tiff_pages(tmp / "loop-source.tif", wafer(40, 50), wafer(40, 50, 2)).read_bytes())
    first, second = tiff_directories(data)
    struct.pack_into("<I", data, next_pointer(data, second), first)
    return bytes(data)
