"""Broken images by the thousand: seeds in every format that edged judges, and mutations that know the formats' structure.

Everything follows from the random numbers given, so a seed number makes the same inputs again.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from contract.decoder_images import chunk
from rigs.hostile import tiff_file

DATA = Path(__file__).parents[1] / "data"
INTERESTING = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
PNG_CHUNKS = (
    b"IHDR",
    b"PLTE",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"iCCP",
    b"sBIT",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"fdAT",
)
TIFF_TAGS = (
    254,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    284,
    306,
    317,
    320,
    322,
    323,
    324,
    325,
    330,
    338,
    339,
    347,
    530,
    34665,
)
COMPRESSIONS = (1, 5, 7, 8, 32773, 32946)


@cache
def seeds() -> dict[str, bytes]:
    """The images that the tests ship, small, in every format and packing."""
    shipped = sorted(DATA.glob("**/*.png"))
    gray = cv2.resize(cv2.imread(str(shipped[0]), cv2.IMREAD_GRAYSCALE), (61, 47))
    colour = cv2.resize(cv2.imread(str(shipped[-1]), cv2.IMREAD_COLOR), (58, 44))
    deep = gray.astype(np.uint16) * 201
    found = {"shipped.png": shipped[0].read_bytes()}

    def add(name: str, page: np.ndarray, *options: int) -> None:
        done, data = cv2.imencode("." + name.rpartition(".")[2], page, options)
        assert done
        found[name] = data.tobytes()

    for kind, page in (("gray", gray), ("colour", colour)):
        add(f"{kind}.jpg", page)
        add(f"{kind} progressive.jpg", page, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        add(f"{kind} restarts.jpg", page, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
        add(f"{kind}.png", page)
        add(f"{kind}.bmp", page)
        for compression in COMPRESSIONS:
            add(f"{kind} {compression}.tiff", page, cv2.IMWRITE_TIFF_COMPRESSION, compression)
    add("alpha.png", np.dstack([colour, gray[:44, :58]]))
    add("deep.png", deep)
    add("deep 5.tiff", deep, cv2.IMWRITE_TIFF_COMPRESSION, 5)
    add("one bit.png", (gray > 99).astype(np.uint8) * 255, cv2.IMWRITE_PNG_BILEVEL, 1)
    done, data = cv2.imencodemulti(".tiff", [gray, gray[::-1].copy(), deep], [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    assert done
    found["pages.tiff"] = data.tobytes()
    found["big endian.tiff"] = tiff_file(order=">")
    found["packed.bmp"] = _packed_bmp()
    found["palette.png"] = _palette_png()
    return found


def _packed_bmp() -> bytes:
    """Run lengths of 8 bits: runs, a literal stretch, a jump, the end."""
    pixels = b"\x10\x22" * 3 + b"\0\x04abcd" + b"\0\0" + b"\0\x02\x05\x03" + b"\x20\x07" + b"\0\0" + b"\0\x01"
    palette = b"".join(bytes((n, 255 - n, n // 2, 0)) for n in range(256))
    offset = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return head + struct.pack("<IiiHHIIiiII", 40, 64, 16, 1, 8, 1, len(pixels), 0, 0, 256, 0) + palette + pixels


def _palette_png() -> bytes:
    """Four bits a pixel, interlaced: what no writer here makes."""
    rows = b"".join(b"\0" + bytes(n) for n in [4] * 40)
    head = struct.pack(">IIBBBBB", 8, 8, 4, 3, 0, 0, 1)
    table = chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", bytes(16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + table + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """(the seed's name, a broken image)."""
    name = chance.choice(sorted(seeds()))
    data = seeds()[name]
    knows = _BY_FORMAT[name.rpartition(".")[2]]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        data = (knows if chance.random() < 0.7 else _any)(data, chance)
    return name, data


def _any(data: bytes, chance: random.Random) -> bytes:
    out, at = bytearray(data or b"\0"), chance.randrange(max(len(data), 1))
    what = chance.randrange(8)
    if what == 0:
        out[at] ^= 1 << chance.randrange(8)
    elif what == 1:
        out[at : at + chance.choice((1, 2, 4))] = chance.randbytes(chance.choice((1, 2, 4)))
    elif what == 2:
        size, order = chance.choice((("H", 2), ("I", 4))), chance.choice("<>")
        out[at : at + size[1]] = struct.pack(order + size[0], chance.choice(INTERESTING) % (1 << 8 * size[1]))
    elif what == 3:
        del out[at : at + chance.choice((1, 4, 60))]
    elif what == 4:
        out[at:at] = out[chance.randrange(len(out)) :][: chance.choice((1, 12, 200))]
    elif what == 5:
        del out[at:]
    elif what == 6:
        other = seeds()[chance.choice(sorted(seeds()))]
        out[at:] = other[chance.randrange(len(other)) :]
    else:
        out[at : at + 64] = bytes((chance.choice((0, 255)),)) * 64
    return bytes(out)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(data) and len(found) < 500:
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _png(data: bytes, chance: random.Random) -> bytes:
    """Chunks changed, added, moved and lost, with sound checksums, so that what is inside them is read."""
    chunks = _chunks(data) or [(b"IEND", b"")]
    at = chance.randrange(len(chunks))
    kind, body = chunks[at]
    what = chance.randrange(7)
    if what == 0 and chunks[0][0] == b"IHDR" and len(chunks[0][1]) == 13:
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        index = chance.randrange(7)
        fields[index] = chance.choice(INTERESTING) if index < 2 else chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
    elif what == 1:
        chunks[at] = kind, _any(body, chance)
    elif what == 2 and kind == b"IDAT":  # the pixels' own stream, sound as a stream
        try:
            raw = zlib.decompressobj().decompress(body, 1 << 20)
        except zlib.error:
            raw = body
        chunks[at] = kind, zlib.compress(_any(raw, chance), 1)
    elif what == 3:
        del chunks[at]
    elif what == 4:
        chunks.insert(at, chunks[chance.randrange(len(chunks))])
    elif what == 5:
        numbers = struct.pack(">IIIIIHHBB", *(chance.choice((0, 1, 2, 40, 2**31)) for _ in range(5)), 1, 10, chance.randrange(4), 0)
        chunks.insert(
            at, (chance.choice(PNG_CHUNKS), chance.choice((numbers, numbers[:8], chance.randbytes(20), zlib.compress(bytes(9000)))))
        )
    else:
        chunks[at] = chance.choice(PNG_CHUNKS), body
    out = b"".join(chunk(*each) for each in chunks)
    if chance.random() < 0.2 and len(out) > 4:  # a length that lies
        out = struct.pack(">I", chance.choice(INTERESTING)) + out[4:]
    return b"\x89PNG\r\n\x1a\n" + out


def _segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments up to the first scan (marker, body), and the rest."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and len(found) < 200:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + max(length, 2)
        if found[-1][0] == 0xDA:
            break
    return found, data[at:]


def _jpeg(data: bytes, chance: random.Random) -> bytes:
    """Frame, tables and scan headers changed where they stand."""
    segments, scan = _segments(data)
    if not segments:
        return _any(data, chance)
    at = chance.randrange(len(segments))
    marker, body = segments[at]
    what = chance.randrange(7)
    if what == 0:  # size, depth, sampling, tables of the frame
        index = next((i for i, each in enumerate(segments) if each[0] in (0xC0, 0xC1, 0xC2)), at)
        changed = bytearray(segments[index][1] or b"\0")
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 2, 3, 4, 8, 0x11, 0x22, 0x41, 0x44, 0xFF))
        segments[index] = segments[index][0], bytes(changed)
    elif what == 1:
        segments[at] = marker, _any(body, chance)[:65_000]
    elif what == 2:
        del segments[at]
    elif what == 3:
        segments.insert(at, segments[chance.randrange(len(segments))])
    elif what == 4:
        segments[at] = chance.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xDB, 0xDD, 0xDC, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)), body
    else:
        scan = _any(scan, chance)
        if chance.random() < 0.5 and not scan.endswith(b"\xff\xd9"):
            scan += b"\xff\xd9"
    out = b"\xff\xd8"
    for each, its in segments:
        length = len(its) + 2 if chance.random() > 0.03 else chance.choice((0, 1, 2, 3, 65535))
        out += bytes((0xFF, each)) + struct.pack(">H", min(length, 65535)) + its
    return out + scan


def _bmp(data: bytes, chance: random.Random) -> bytes:
    """A field of the header, the palette, or the packed pixels."""
    out = bytearray(data)
    if chance.random() < 0.7 and len(out) > 60:
        at, size = chance.choice(
            ((10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (34, "I"), (46, "I"), (50, "I"))
        )
        most = (1 << 8 * struct.calcsize(size)) - 1
        value = chance.choice((*INTERESTING, 4, 24, 32, 40, 54, 61, 108, 124)) & most
        struct.pack_into("<" + size.upper(), out, at, value)
        return bytes(out)
    cut = min(54, len(out) - 1)
    return bytes(out[:cut]) + _any(bytes(out[cut:]), chance)


def _tiff(data: bytes, chance: random.Random) -> bytes:
    """Entries of a directory: tag, type, count or value; and where the next directory lies."""
    order = "<" if data[:2] == b"II" else ">"
    out = bytearray(data)
    offsets: list[int] = []
    at = struct.unpack_from(order + "I", data, 4)[0] if len(data) >= 8 else 0
    while at and at + 2 <= len(data) and len(offsets) < 10:
        offsets.append(at)
        end = at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0]
        at = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
    if not offsets:
        return _any(data, chance)
    at = chance.choice(offsets)
    count = struct.unpack_from(order + "H", data, at)[0]
    entry = at + 2 + 12 * chance.randrange(max(count, 1))
    what = chance.randrange(8)
    if entry + 12 > len(out) or what == 0:
        return _any(data, chance)
    if what == 1:
        struct.pack_into(order + "H", out, entry, chance.choice(TIFF_TAGS))
    elif what == 2:
        struct.pack_into(order + "H", out, entry + 2, chance.randrange(20))
    elif what == 3:
        struct.pack_into(order + "I", out, entry + 4, chance.choice(INTERESTING))
    elif what == 4:
        values = (*COMPRESSIONS, *INTERESTING, *offsets, len(data) - 1, entry, 34_887, 50_001, 32_809)
        struct.pack_into(order + chance.choice("HI"), out, entry + 8, chance.choice(values) & 0xFFFF)
    elif what == 5:
        values = (*INTERESTING, *offsets, len(data) - 1, entry)
        struct.pack_into(order + "I", out, entry + 8, chance.choice(values))
    elif what == 6:
        struct.pack_into(order + "H", out, at, chance.choice((0, 1, max(count - 1, 0), count + 1, 4097, 65535)))
    else:
        end = at + 2 + 12 * count
        if end + 4 <= len(out):
            struct.pack_into(order + "I", out, end, chance.choice((0, 1, 8, *offsets, len(data) - 2)))
    return bytes(out)


_BY_FORMAT: dict[str, Callable[[bytes, random.Random], bytes]] = {"png": _png, "jpg": _jpeg, "bmp": _bmp, "tiff": _tiff}
