"""Is an image file whole? Answered by its structure alone, since OpenCV decodes half-written files with only a warning.

Invariants
- `COMPLETE` is said only of a file whose structure reaches its end: JPEG to EOI, PNG to IEND, BMP and TIFF with all pixels inside it.
- A file cut at any byte, and one whose tail was preallocated and never written, is never `COMPLETE`.
- Broken by the end of the file or by zeros: `INCOMPLETE` (it may still grow). Broken by other bytes: `UNKNOWN` (the decoder rejects it).
- Raw pixels that end in zeros may be a black border or a tail nobody wrote yet: `SUSPECT`, which only a longer stillness settles.
- Memory is bounded (blocks of 64 KiB and 1 MiB) whatever the file claims; every loop is capped.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable

from edged.intake.tiff import tiff
from edged.intake.window import BLOCK, SWEEP, Grade, Structure, Window, broken, cut, suspect, zero_tail

MAX_SIZE = 1 << 32
MAX_SEGMENTS = 200_000

_MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))


def check(fd: int, size: int, *, holes_tell: bool = False, tick: Callable[[], None] = lambda: None) -> Structure:
    """Examine an open regular file of `size` bytes.

    `holes_tell`: on this file system a hole is space that was reserved and never written (ext4, xfs, btrfs, tmpfs), not merely zeros saved.
    Raises OSError when the file cannot be read.
    """
    if size == 0:
        return Structure(Grade.INCOMPLETE, 0, "the file is empty")
    if size > MAX_SIZE:
        return Structure(Grade.UNKNOWN, 0, "the file is larger than any image")
    window = Window(fd, size, tick)
    structure = _examine(window)
    if holes_tell and structure.grade in (Grade.COMPLETE, Grade.SUSPECT) and (hole := _first_hole(fd, size)) is not None:
        return Structure(Grade.INCOMPLETE, hole, f"space is reserved from byte {hole} on but not written")
    return structure


def _examine(window: Window) -> Structure:
    head = window.at(0, 16)
    if head.startswith(b"\xff\xd8"):
        return _jpeg(window)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(window)
    if head.startswith(b"BM"):
        return _bmp(window)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return tiff(window)
    begun = head.rstrip(b"\0")
    if any(magic.startswith(begun) and len(begun) < len(magic) for magic in _MAGICS):
        return Structure(Grade.INCOMPLETE, len(begun), "the header is not written yet")
    return Structure(Grade.UNKNOWN, 0, "no image format that edged knows")


def _first_hole(fd: int, size: int) -> int | None:
    try:
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:
        return None
    return hole if hole < size else None


def _jpeg(window: Window) -> Structure:
    position, progressive, components = 2, False, 0
    for _ in range(MAX_SEGMENTS):
        head = window.at(position, 4)
        if len(head) < 4:
            return cut(window, "the JPEG has no image data yet")
        if head[0] != 0xFF or head[1] in (0x00, 0xD8, 0xD9):
            return broken(window, position + (head[0] == 0xFF), "the JPEG header has no marker")
        marker = head[1]
        if marker in {0xFF, 0x01} or 0xD0 <= marker <= 0xD7:
            position += 1 if marker == 0xFF else 2
            continue
        length = head[2] << 8 | head[3]
        if length < 2:
            return broken(window, position + 2, "the JPEG header has an empty segment")
        end = position + 2 + length
        if end > window.size:
            return cut(window, "the JPEG header is cut")
        body = window.at(position + 4, min(length - 2, 8))
        if marker in _JPEG_FRAMES:
            progressive, components = marker in _JPEG_PROGRESSIVE, body[5] if len(body) > 5 else 0
        elif marker == 0xDA:
            return _jpeg_scans(window, end, several=progressive or not body or body[0] < components)
        position = end
    return Structure(Grade.UNKNOWN, position, "the JPEG header does not end")


def _jpeg_scans(window: Window, start: int, *, several: bool) -> Structure:
    """From the first entropy-coded byte on. There 0xFF is always stuffed: with one scan, an EOI in the tail proves all before it."""
    if not several:
        tail_at = max(start, window.size - 4096)
        if b"\xff\xd9" in window.sweep(tail_at, window.size - tail_at):
            return Structure.complete()
    position, block_at, block = start, start, b""
    for _ in range(MAX_SEGMENTS):
        found = None
        while found is None and position < window.size - 1:
            if position + 1 >= block_at + len(block):
                block_at, block = position, window.sweep(position, SWEEP)
            found = _MARKER.search(block, position - block_at)
            if found is None:
                position = max(block_at + len(block) - 1, position + 1)
        if found is None:
            break
        marker, position = block[found.start() + 1], block_at + found.start() + 2
        if marker == 0xD9:
            return Structure.complete()
        if marker >= 0xC0:
            length = int.from_bytes(window.at(position, 2), "big")
            position += max(length, 2)
    else:
        return Structure(Grade.UNKNOWN, position, "the JPEG has too many segments")
    return cut(window, "the JPEG has no end marker")


def _png(window: Window) -> Structure:
    position, data = 8, False
    for index in range(MAX_SEGMENTS):
        head = window.at(position, 8)
        if len(head) < 8:
            return cut(window, "the PNG has no IEND")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha() or length > 0x7FFFFFFF or (index == 0) != (kind == b"IHDR"):
            return broken(window, position, "the PNG has no chunk")
        end = position + 12 + length
        if end > window.size:
            return cut(window, f"the PNG's {kind.decode()} chunk is cut")
        if kind != b"IDAT" and length <= BLOCK:
            body = window.at(position + 4, length + 8)
            if zlib.crc32(body[: length + 4]) != int.from_bytes(body[length + 4 :], "big"):
                what = f"the PNG's {kind.decode()} chunk has a wrong checksum"
                return cut(window, what) if body[-1:] == b"\0" else broken(window, end - 4, what)
        data = data or kind == b"IDAT"
        if kind == b"IEND":
            return Structure.complete() if data else Structure(Grade.UNKNOWN, position, "the PNG has no image data")
        position = end
    return Structure(Grade.UNKNOWN, position, "the PNG has too many chunks")


def _bmp(window: Window) -> Structure:
    head = window.at(0, 54)
    if len(head) < 26 or (len(head) < 54 and head[14:18] != b"\x0c\0\0\0"):
        return cut(window, "the BMP header is cut")
    pixels_at, kind = struct.unpack_from("<II", head, 10)
    if kind == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", head, 18)
        packing, packed = 0, 0
    else:
        width, height, _, bits, packing, packed = struct.unpack_from("<iiHHII", head, 18)
    if kind < 12 or pixels_at < 14 + min(kind, 12) or width <= 0 or height == 0 or bits == 0:
        begun = window.zeros_from() < 54
        return cut(window, "the BMP header is begun") if begun else Structure(Grade.UNKNOWN, 18, "the BMP header makes no sense")
    raw = packing in (0, 3, 6)
    length = (width * bits + 31) // 32 * 4 * abs(height) if raw else packed
    end = pixels_at + length
    if end > window.size:
        return cut(window, f"the BMP's pixels need {end} bytes")
    if (at := zero_tail(window, end, length)) is not None:
        return suspect(at) if raw else cut(window, "the BMP's packed pixels have no end")
    return Structure.complete()
