"""TIFF and BigTIFF, both byte orders: the chain of directories, and every strip, tile and value inside the file. See completeness.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from edged.intake.window import Grade, Structure, Window, cut, suspect, zero_tail

MAX_DIRECTORIES = 10_000
MAX_VALUES = 1_000_000
MAX_TOTAL = 3_000_000  # entries and values in all: directories may overlap, and a small file must not cost minutes

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_RAW = (0, 1)
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_OFFSETS, _COUNTS = (273, 324), (279, 325)
_DIRECTORIES = (330, 34665, 34853)


class _Broken(Exception):  # noqa: N818 - carried a few frames up, never out of this file
    def __init__(self, structure: Structure) -> None:
        self.structure = structure


@dataclass(slots=True)
class _Layout:
    order: str
    big: bool
    reach: int = 0  # the end of everything that a directory names
    data_end: int = 0
    data_length: int = 0
    raw: bool = True
    images: int = 0
    budget: int = MAX_TOTAL
    pending: list[int] = field(default_factory=list)


def tiff(window: Window) -> Structure:
    """Examine a file that begins with a TIFF magic."""
    head = window.at(0, 16)
    layout = _Layout("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+"))
    first = 16 if layout.big else 8
    if len(head) < first:
        return cut(window, "the TIFF header is cut")
    layout.reach = first
    offset = struct.unpack_from(layout.order + ("Q" if layout.big else "I"), head, first - (8 if layout.big else 4))[0]
    if offset == 0:
        return cut(window, "the TIFF's directory is not written yet")
    layout.pending.append(offset)
    seen: set[int] = set()
    try:
        while layout.pending:
            offset = layout.pending.pop()
            if offset in seen or len(seen) >= MAX_DIRECTORIES:
                return Structure(Grade.UNKNOWN, offset, "the TIFF's directories form a loop, or are too many")
            seen.add(offset)
            _directory(window, layout, offset)
    except _Broken as problem:
        return problem.structure
    return _tail(window, layout)


def _tail(window: Window, layout: _Layout) -> Structure:
    if layout.images == 0:
        return Structure(Grade.UNKNOWN, 0, "the TIFF holds no image")
    if (at := zero_tail(window, layout.data_end, layout.data_length)) is not None:
        return suspect(at) if layout.raw else cut(window, "the TIFF's compressed pixels have no end")
    if window.size - layout.reach > 16:
        return Structure(Grade.SUSPECT, window.zeros_from(), f"data from byte {layout.reach} on belongs to no page yet")
    return Structure.complete()


def _directory(window: Window, layout: _Layout, offset: int) -> None:
    count_format, entry_format, entry_size, pointer = ("Q", "HHQ8s", 20, "Q") if layout.big else ("H", "HHI4s", 12, "I")
    width = struct.calcsize(layout.order + count_format)
    head = window.at(offset, width) if offset < window.size else b""
    if len(head) < width:
        raise _Broken(cut(window, f"the TIFF's directory at byte {offset} is missing"))
    entries = struct.unpack(layout.order + count_format, head)[0]
    if entries == 0:
        raise _Broken(cut(window, "the TIFF's directory is empty"))
    layout.budget -= entries
    if entries > 65_535 or layout.budget < 0:
        raise _Broken(Structure(Grade.UNKNOWN, offset, "the TIFF's directory has too many entries"))
    length = entries * entry_size
    end = offset + width + length + struct.calcsize(layout.order + pointer)
    if end > window.size:
        raise _Broken(cut(window, "the TIFF's directory is cut"))
    body = window.at(offset + width, end - offset - width)
    following = struct.unpack_from(layout.order + pointer, body, length)[0]
    layout.reach = max(layout.reach, end)
    tags = {
        tag: (kind, count, value)
        for tag, kind, count, value in struct.iter_unpack(layout.order + entry_format, body[:length])
        if _inside(window, layout, kind, count, value)
    }
    _image(window, layout, tags)
    for tag in _DIRECTORIES:
        layout.pending.extend(offset for offset in _values(window, layout, tags, tag) if offset)
    if following:
        layout.pending.append(following)


def _inside(window: Window, layout: _Layout, kind: int, count: int, value: bytes) -> bool:
    if kind == 0 or (count == 0 and not value.strip(b"\0")):
        raise _Broken(cut(window, "an entry of the TIFF's directory is not written yet"))
    length = _SIZES.get(kind, 1) * count
    if length <= len(value):
        return True
    start = struct.unpack(layout.order + ("Q" if layout.big else "I"), value)[0]
    if start + length > window.size:
        raise _Broken(cut(window, f"the TIFF needs {start + length} bytes"))
    layout.reach = max(layout.reach, start + length)
    return True


def _values(window: Window, layout: _Layout, tags: dict[int, tuple[int, int, bytes]], tag: int) -> tuple[int, ...]:
    kind, count, value = tags.get(tag, (0, 0, b""))
    code = _CODES.get(kind)
    if code is None or count == 0:
        return ()
    layout.budget -= count
    if count > MAX_VALUES or layout.budget < 0:
        raise _Broken(Structure(Grade.UNKNOWN, 0, f"the TIFF's tag {tag} has {count} values"))
    length = _SIZES[kind] * count
    if length > len(value):
        value = window.at(struct.unpack(layout.order + ("Q" if layout.big else "I"), value)[0], length)
    return struct.unpack_from(f"{layout.order}{count}{code}", value) if len(value) >= length else ()


def _image(window: Window, layout: _Layout, tags: dict[int, tuple[int, int, bytes]]) -> None:
    for offsets_tag, counts_tag in zip(_OFFSETS, _COUNTS, strict=True):
        offsets = _values(window, layout, tags, offsets_tag)
        if not offsets:
            continue
        compression = (_values(window, layout, tags, _COMPRESSION) or (1,))[0]
        counts = _values(window, layout, tags, counts_tag) or _raw_counts(window, layout, tags, offsets)
        end = 0
        for start, length in zip(offsets, counts, strict=False):
            if length and not start:
                raise _Broken(cut(window, "a strip of the TIFF has no place yet"))
            end = max(end, start + length)
        if len(counts) < len(offsets) or not any(counts):
            raise _Broken(cut(window, "the TIFF's strips are not written yet"))
        if end > window.size:
            raise _Broken(cut(window, f"the TIFF's pixels need {end} bytes"))
        if end > layout.data_end:
            layout.data_end, layout.data_length, layout.raw = end, sum(counts), compression in _RAW
        layout.reach = max(layout.reach, end)
        layout.images += 1


def _raw_counts(window: Window, layout: _Layout, tags: dict[int, tuple[int, int, bytes]], offsets: tuple[int, ...]) -> tuple[int, ...]:
    """Some old writers leave the byte counts out; with one uncompressed strip they follow from the size."""
    if len(offsets) != 1:
        return ()
    width, height, bits, samples = ((_values(window, layout, tags, tag) or (1,))[0] for tag in (_WIDTH, _HEIGHT, _BITS, _SAMPLES))
    return ((width * bits * samples + 7) // 8 * height,)
