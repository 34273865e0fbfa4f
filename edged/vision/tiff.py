"""TIFF structure: the page directories (IFDs) of a TIFF or BigTIFF, and of the TIFF block inside EXIF. No pixel is touched.

Every offset and count comes from the file and is checked against the bytes at hand before use.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MAX_VALUES = 4_000_000

NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, DATE_TIME = 273, 277, 278, 279, 284, 306
TILE_OFFSETS, TILE_COUNTS, SAMPLE_FORMAT, EXIF_IFD, DATE_TIME_ORIGINAL, OFFSET_TIME_ORIGINAL = 324, 325, 339, 34665, 36867, 36881
PREDICTOR, FILL_ORDER = 317, 266


class Broken(ValueError):  # noqa: N818 - it names what was found
    """The structure points outside the file, loops, or has an impossible count; the text says which."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte order and offset width of one TIFF block, and where its first directory lies."""

    order: str  # struct prefix
    big: bool
    first: int

    @property
    def pointer_at(self) -> int:
        """Where the offset of the first directory is written."""
        return 8 if self.big else 4


@dataclass(frozen=True, slots=True)
class Directory:
    """One page directory: tag -> (type, count, position of the values)."""

    offset: int
    entries: dict[int, tuple[int, int, int]]
    following: int


def layout(data: bytes) -> Layout:
    """The block's header. Raises Broken when it is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise Broken("no TIFF header")
    (magic,) = struct.unpack_from(order + "H", data, 2)
    if magic == 42:
        return Layout(order, False, struct.unpack_from(order + "I", data, 4)[0])
    if magic == 43 and len(data) >= 16 and struct.unpack_from(order + "HH", data, 4) == (8, 0):
        return Layout(order, True, struct.unpack_from(order + "Q", data, 8)[0])
    raise Broken("no TIFF header")


def directory(data: bytes, where: Layout, offset: int) -> Directory:
    """The directory at `offset`. Raises Broken when it does not lie within the file."""
    order, size = where.order, len(data)
    head, entry, pointer = (8, 20, "Q") if where.big else (2, 12, "I")
    if offset < 8 or offset + head > size:
        raise Broken(f"a page directory lies at byte {offset}, outside the file of {size} bytes")
    (count,) = struct.unpack_from(order + ("Q" if where.big else "H"), data, offset)
    end = offset + head + count * entry
    if count > 4096 or end + struct.calcsize(order + pointer) > size:
        raise Broken(f"the page directory at byte {offset} claims {count} entries, more than the file holds")
    entries: dict[int, tuple[int, int, int]] = {}
    for position in range(offset + head, end, entry):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if where.big else "HHI"), data, position)
        inline = position + (12 if where.big else 8)
        length = _SIZES.get(kind, 1) * values
        if length > (8 if where.big else 4):
            (inline,) = struct.unpack_from(order + pointer, data, inline)
        entries[tag] = (kind, values, inline)
    (following,) = struct.unpack_from(order + pointer, data, end)
    return Directory(offset, entries, following)


def numbers(data: bytes, where: Layout, page: Directory, tag: int) -> tuple[int, ...]:
    """A tag's integers; empty when the tag is absent or no integer. Raises Broken when they lie outside the file."""
    kind, count, position = page.entries.get(tag, (0, 0, 0))
    code = _NUMBERS.get(kind)
    if code is None or count == 0:
        return ()
    if count > _MAX_VALUES or position + count * _SIZES[kind] > len(data):
        raise Broken(f"tag {tag} claims {count} values, more than the file holds")
    return struct.unpack_from(f"{where.order}{count}{code}", data, position)


def text(data: bytes, page: Directory, tag: int) -> str:
    """An ASCII tag as text, empty when absent or out of bounds."""
    kind, count, position = page.entries.get(tag, (0, 0, 0))
    if kind != 2 or count > 4096 or position + count > len(data):
        return ""
    return data[position : position + count].split(b"\0")[0].decode("ascii", "replace")


def pages(data: bytes, where: Layout, limit: int) -> tuple[list[Directory], bool]:
    """The chain of directories, and whether it is longer than `limit`. Raises Broken on a loop or a pointer out of the file."""
    found: list[Directory] = []
    seen: set[int] = set()
    offset = where.first
    while offset:
        if offset in seen:
            raise Broken(f"the chain of page directories loops back to byte {offset}")
        if len(found) >= limit:
            return found, True
        seen.add(offset)
        page = directory(data, where, offset)
        found.append(page)
        offset = page.following
    return found, False


def moment(stamp: str, zone: str = "") -> datetime | None:
    """`2026:11:24 02:00:00` as UTC; without a zone it is this machine's local time. None when it is no such date."""
    try:
        naive = datetime.strptime(stamp.strip(), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - its zone stands in another tag
        if zone.strip():
            sign = -1 if zone.strip()[0] == "-" else 1
            hours, minutes = zone.strip().lstrip("+-").split(":")
            return naive.replace(tzinfo=timezone(sign * timedelta(hours=int(hours), minutes=int(minutes)))).astimezone(UTC)
        return naive.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def exif_moment(block: bytes) -> datetime | None:
    """DateTimeOriginal of an EXIF block (a TIFF block of its own), else None. Never raises: EXIF is decoration."""
    try:
        where = layout(block)
        pointer = numbers(block, where, directory(block, where, where.first), EXIF_IFD)
        if not pointer:
            return None
        exif = directory(block, where, pointer[0])
    except (Broken, struct.error):
        return None
    return moment(text(block, exif, DATE_TIME_ORIGINAL), text(block, exif, OFFSET_TIME_ORIGINAL))
