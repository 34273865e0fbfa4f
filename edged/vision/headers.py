"""The header check that comes before any codec: what kind of image this is, how large, and whether its structure reaches its end.

Allow-list: JPEG, PNG, BMP, TIFF, told by their magic bytes alone, and inside them the packings named here: what a container may hold
beside them (WebP or LERC in a TIFF, arithmetic JPEG) reaches no codec either. A page's dimensions are known and within the limits before
OpenCV sees a byte. Time is bounded by the file's size, whatever it claims: every loop over what is small is capped.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from datetime import datetime

from edged.errors import FrameRejected
from edged.vision import tiff

JPEG, PNG, BMP, TIFF = "image/jpeg", "image/png", "image/bmp", "image/tiff"

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_SOF_DECODED = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
_BMP_PACKINGS = frozenset((0, 1, 2, 3, 6))  # none, run lengths of 8 and 4 bits, bit fields without and with alpha
_TIFF_PACKINGS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_MAX_PARTS = 200_000  # segments of a JPEG, chunks of a PNG
_MAX_STRIPS = 8_000_000  # of all pages of a TIFF, which may list the same bytes again and again
_STRIPS = frozenset((tiff.STRIP_OFFSETS, tiff.TILE_OFFSETS, tiff.STRIP_COUNTS, tiff.TILE_COUNTS))
_FILL = re.compile(rb"\xff*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost; see `[decode]`."""

    max_file_bytes: int
    max_pixels: int
    max_side_px: int
    max_pages: int


@dataclass(frozen=True, slots=True)
class PageHeader:
    """One page: pixels, bits per sample, samples per pixel. `offset` is where a TIFF page's directory lies.

    `refused` = (reason, detail) when this page cannot be decoded; the other pages of the file still can.
    """

    width: int
    height: int
    bits: int
    channels: int
    offset: int = 0
    refused: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says about itself. `structure` holds what the raw fast paths need (TIFF layout)."""

    media_type: str
    pages: tuple[PageHeader, ...]
    acquired: datetime | None = None
    acquired_from: str | None = None
    layout: tiff.Layout | None = field(default=None, compare=False)


def media_type(data: bytes) -> str | None:
    """The media type by magic bytes, None when it is none of the four."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"BM") and len(data) >= 18 and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124):
        return BMP
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TIFF
    return None


def inspect(data: bytes, limits: Limits) -> Header:
    """The whole file's header. Raises FrameRejected: `empty`, `format`, `corrupt`, `too-large`, `too-many-pages`.

    A file of one page raises for that page; in a file of several a bad page carries its `refused` instead.
    """
    if not data:
        raise FrameRejected("empty", "the file holds no bytes")
    if len(data) > limits.max_file_bytes:
        raise too_long(len(data), limits)
    kind = media_type(data)
    if kind is None:
        raise FrameRejected("format", f"the file begins with {data[:8].hex(' ')}, which is no JPEG, PNG, BMP or TIFF")
    try:
        header = {JPEG: _jpeg, PNG: _png, BMP: _bmp}[kind](data) if kind != TIFF else _tiff(data, limits)
    except (struct.error, IndexError, tiff.Broken) as error:
        raise FrameRejected("corrupt", f"the structure of this {kind} is broken: {error}") from None
    pages = tuple(_within(page, limits) for page in header.pages)
    if len(pages) == 1 and pages[0].refused:
        raise FrameRejected(*pages[0].refused)
    return Header(header.media_type, pages, header.acquired, header.acquired_from, header.layout)


def too_long(size: int, limits: Limits) -> FrameRejected:
    """The rejection of a file with too many bytes; it need not be read to know."""
    return FrameRejected("too-large", f"the file has {size} bytes, decode.max_file_bytes allows {limits.max_file_bytes}")


def _within(page: PageHeader, limits: Limits) -> PageHeader:
    problem: tuple[str, str] | None = page.refused
    if problem is None and (page.width < 1 or page.height < 1):
        problem = ("corrupt", f"the header claims {page.width} x {page.height} pixels")
    elif problem is None and max(page.width, page.height) > limits.max_side_px:
        problem = ("too-large", f"{page.width} x {page.height} pixels, decode.max_side_px allows {limits.max_side_px} a side")
    elif problem is None and page.width * page.height > limits.max_pixels:
        problem = ("too-large", f"{page.width} x {page.height} pixels, decode.max_pixels allows {limits.max_pixels}")
    elif problem is None and page.bits > 16:
        problem = ("format", f"{page.bits} bits a sample; 1 to 16 can be judged")
    return PageHeader(page.width, page.height, page.bits, page.channels, page.offset, problem)


def _jpeg(data: bytes) -> Header:
    at, size = 2, len(data)
    page: PageHeader | None = None
    taken: datetime | None = None
    for _ in range(_MAX_PARTS):
        if data[at] != 0xFF:
            raise tiff.Broken(f"no marker at byte {at}")
        at = _end_of_fill(data, at) - 1
        marker = data[at + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xD9:
            raise tiff.Broken("it ends before its scan")
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2 or at + 2 + length > size:
            raise tiff.Broken(f"the segment at byte {at} reaches past the end of the file")
        if marker in _SOF:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            page = PageHeader(width, height, bits, channels, refused=_jpeg_kind(marker, bits))
        elif marker == 0xE1 and taken is None and data[at + 4 : at + 10] == b"Exif\0\0":
            taken = tiff.exif_moment(data[at + 10 : at + 2 + length])
        elif marker == 0xDA:
            break
        at += 2 + length
    else:
        raise tiff.Broken(f"it has more than {_MAX_PARTS} segments")
    if page is None:
        raise tiff.Broken("no frame header before its scan")
    # An end marker cannot occur inside entropy-coded data, so a search from the end is enough: no end marker, no whole image.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise tiff.Broken("the end marker is missing, so it is cut off")
    return Header(JPEG, (page,), taken, "exif" if taken else None)


def _end_of_fill(data: bytes, at: int) -> int:
    found = _FILL.match(data, at)
    return found.end() if found else at


def _jpeg_kind(marker: int, bits: int) -> tuple[str, str] | None:
    if marker not in _SOF_DECODED:
        return "format", f"a JPEG of the rare kind SOF{marker - 0xC0} (lossless, hierarchical or arithmetic)"
    return None if bits == 8 else ("format", f"a JPEG of {bits} bits a sample")


def _png(data: bytes) -> Header:
    length, kind, width, height, bits, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind != b"IHDR" or length != 13:
        raise tiff.Broken("the first chunk is not IHDR")
    if colour not in _PNG_CHANNELS:
        raise tiff.Broken(f"colour type {colour} does not exist")
    at, size = 33, len(data)
    taken: datetime | None = None
    for _ in range(_MAX_PARTS):
        if at + 12 > size:
            raise tiff.Broken("the end chunk is missing, so it is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        if kind == b"eXIf" and at + 8 + length <= size:
            taken = tiff.exif_moment(data[at + 8 : at + 8 + length])
        if not kind.isalpha():
            raise tiff.Broken(f"no chunk at byte {at}")
        at += 12 + length
    else:
        raise tiff.Broken(f"it has more than {_MAX_PARTS} chunks")
    return Header(PNG, (PageHeader(width, height, 8 if colour == 3 else bits, _PNG_CHANNELS[colour]),), taken, "exif" if taken else None)


def _bmp(data: bytes) -> Header:
    (pixels_at, info) = struct.unpack_from("<II", data, 10)
    if info == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression, colours, entry = 0, 0, 3
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
        entry = 4
    height = abs(height)
    if depth not in (1, 4, 8, 16, 24, 32):
        raise tiff.Broken(f"{depth} bits a pixel do not exist")
    refused = None if compression in _BMP_PACKINGS else ("format", f"its pixels are packed in way {compression}, which edged does not read")
    stride = (width * depth + 31) // 32 * 4
    if compression in (0, 3) and width > 0 and pixels_at + stride * height > len(data):
        raise tiff.Broken(f"the pixels need {pixels_at + stride * height} bytes, the file has {len(data)}")
    channels = {32: 4, 24: 3, 16: 3}.get(depth, 1)
    if depth <= 8:
        count = min(colours or 1 << depth, 256)
        table = data[14 + info : 14 + info + count * entry]
        channels = 1 if table[0::entry] == table[1::entry] == table[2::entry] else 3
    return Header(BMP, (PageHeader(width, height, 8, channels, pixels_at, refused),))


def _tiff(data: bytes, limits: Limits) -> Header:
    where = tiff.layout(data)
    found, longer = tiff.pages(data, where, limits.max_pages)
    if longer:
        raise FrameRejected("too-many-pages", f"the TIFF has more than {limits.max_pages} pages, which is what decode.max_pages allows")
    if not found:
        raise tiff.Broken("it has no page")
    # Thumbnails and masks (bits 0 and 2 of NewSubfileType) are no pages of their own.
    chosen = [page for page in found if not (tiff.numbers(data, where, page, tiff.NEW_SUBFILE_TYPE) or (0,))[0] & 5] or found[:1]
    counts = (page.entries[tag][1] for page in chosen for tag in _STRIPS & page.entries.keys())
    if sum(count for count in counts if count <= len(data)) > _MAX_STRIPS:  # more than the file holds is that page's trouble
        raise tiff.Broken(f"its pages list more than {_MAX_STRIPS} strips and tiles")
    stamp = tiff.text(data, chosen[0], tiff.DATE_TIME)
    taken = tiff.moment(stamp) if stamp else None
    return Header(TIFF, tuple(_tiff_page(data, where, page) for page in chosen), taken, "tiff-datetime" if taken else None, where)


def _tiff_page(data: bytes, where: tiff.Layout, page: tiff.Directory) -> PageHeader:
    def first(tag: int, default: int) -> int:
        return (tiff.numbers(data, where, page, tag) or (default,))[0]

    width = height = channels = 0
    bits = 1
    try:
        width, height = first(tiff.WIDTH, 0), first(tiff.HEIGHT, 0)
        bits, channels = first(tiff.BITS, 1), first(tiff.SAMPLES, 1)
        if first(tiff.SAMPLE_FORMAT, 1) not in (1, 4):
            return PageHeader(width, height, bits, channels, page.offset, ("format", "its samples are signed or floating point"))
        if (packing := first(tiff.COMPRESSION, 1)) not in _TIFF_PACKINGS:
            known = ", ".join(dict.fromkeys(_TIFF_PACKINGS.values()))
            detail = f"its pixels are packed in way {packing}, which edged does not read ({known})"
            return PageHeader(width, height, bits, channels, page.offset, ("format", detail))
        if first(tiff.PHOTOMETRIC, 1) == 3:  # a palette becomes colours
            bits, channels = 8, 3
        offsets = tiff.numbers(data, where, page, tiff.STRIP_OFFSETS) or tiff.numbers(data, where, page, tiff.TILE_OFFSETS)
        counts = tiff.numbers(data, where, page, tiff.STRIP_COUNTS) or tiff.numbers(data, where, page, tiff.TILE_COUNTS)
        if not offsets or len(offsets) != len(counts):
            raise tiff.Broken("its pixel data is not listed")
        if max(map(sum, zip(offsets, counts, strict=True))) > len(data):
            raise tiff.Broken("its pixel data reaches past the end of the file")
    except tiff.Broken as error:
        return PageHeader(width, height, bits, channels, page.offset, ("corrupt", f"the page at byte {page.offset} is broken: {error}"))
    return PageHeader(width, height, bits, channels, page.offset)
