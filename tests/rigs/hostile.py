"""The numbered list of hostile image files: what each is, and what becomes of it where nothing but its bytes counts.

`reason` is what the decoders say: `judged`, or why not. A number may stand for several files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import cv2

from contract.decoder_images import chunk, encoded, jpeg_claiming, jpeg_garbled, png, wafer

HUGE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class HostileFile:
    number: int
    name: str
    make: Callable[[], bytes]
    reason: str

    def __str__(self) -> str:
        return f"{self.number:02} {self.name}"


@cache
def good(suffix: str) -> bytes:
    return encoded(suffix, wafer(200, 300))


def _patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _flipped() -> bytes:
    data = bytearray(good(".png"))
    data[len(data) // 2] ^= 1
    return bytes(data)


def _half_zeros(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def _progressive() -> bytes:
    return cv2.imencode(".jpg", wafer(200, 300), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def _apng_bad_filter() -> bytes:
    """Its default image, which is its first frame, has lines of a filter type that does not exist."""
    rows = [b"\x63" + bytes(64)] * 48
    data = png(64, 48, rows=rows)
    frame = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 48, 0, 0, 1, 10, 0, 0))
    second = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 1, 64, 48, 0, 0, 1, 10, 0, 0))
    body = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(b"".join(rows)))
    return data[:33] + frame + data[33:-12] + second + body + data[-12:]


def _apng_million_frames() -> bytes:
    return good(".png")[:33] + chunk(b"acTL", struct.pack(">II", 10**6, 0)) + good(".png")[33:]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def looping_exif() -> bytes:
    """An EXIF block whose directories name themselves as the next, and as their own EXIF directory; turned by 90 degrees."""
    entries = struct.pack(">HHIHH", 274, 3, 1, 6, 0) + struct.pack(">HHII", 34665, 4, 1, 8)
    return (b"MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 8)).ljust(65_000, b"\0")


def _jpeg_metadata() -> bytes:
    profile = [_segment(0xE2, b"ICC_PROFILE\0" + bytes((number % 3 + 1, 3)) + bytes(65_000)) for number in range(9)]
    return good(".jpg")[:2] + _segment(0xE1, b"Exif\0\0" + looping_exif()) + b"".join(profile) + good(".jpg")[2:]


def _jpeg_comments() -> bytes:
    return good(".jpg")[:2] + _segment(0xFE, bytes(60_000)) * 3 + good(".jpg")[2:]


def _bmp(width: int, height: int, *rest: int) -> bytes:
    """The good BMP's header with another size, and `rest`: planes, bits, compression."""
    fields = struct.pack("<ii", width, height) + (struct.pack("<HHI", *rest) if rest else b"")
    return _patched(good(".bmp"), 18, fields)


def tiff_file(*entries: tuple[int, int, int, int], order: str = "<", tail: bytes = b"", following: int = 0) -> bytes:
    """One directory of 8-bit gray pixels: `entries` (tag, type, count, value) replace or join the sound ones; 64 x 48."""
    length = 64 * 48
    sound = {
        256: (4, 1, 64),
        257: (4, 1, 48),
        258: (4, 1, 8),
        259: (4, 1, 1),
        262: (4, 1, 1),
        273: (4, 1, 8),
        277: (4, 1, 1),
        278: (4, 1, 48),
    }
    sound |= {279: (4, 1, length)} | {tag: (kind, count, value) for tag, kind, count, value in entries}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + length)
    body = b"".join(struct.pack(order + "HHII", tag, *facts) for tag, facts in sorted(sound.items()))
    directory = struct.pack(order + "H", len(sound)) + body + struct.pack(order + "I", following)
    return head + bytes(wafer(48, 64).tobytes()) + directory + tail


def _big_tiff() -> bytes:
    """More pixels a line than any database has numbers for."""
    entries = ((256, 16, 1, 2**64 - 1), (257, 16, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 16, 1, 16), (279, 16, 1, 8))
    body = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return b"II+\0" + struct.pack("<HHQ", 8, 0, 24) + bytes(8) + struct.pack("<Q", len(entries)) + body + bytes(8)


def _tiff_loop() -> bytes:
    return tiff_file(following=8 + 64 * 48)


def _sub_directory_loop() -> bytes:
    return tiff_file((330, 4, 1, 8 + 64 * 48))


def _polyglot() -> bytes:
    return good(".png") + b"PK\3\4" + bytes(26) + b"<script>alert(1)</script>" + b"\n#!/bin/sh\ntouch /tmp/ran\n" + good(".jpg")


def _bomb() -> bytes:
    return png(20_000, 20_000, rows=(bytes(20_001) for _ in range(20_000)))


FILES = (
    HostileFile(1, "empty.png", lambda: b"", "empty"),
    HostileFile(2, "signature only.png", lambda: good(".png")[:8], "corrupt"),
    HostileFile(3, "text.png", lambda: b"hello, I am no image\n" * 20, "format"),
    HostileFile(4, "zeros.png", lambda: bytes(100_000), "format"),
    HostileFile(5, "half.png", lambda: good(".png")[: len(good(".png")) // 2], "corrupt"),
    HostileFile(6, "flipped.png", _flipped, "corrupt"),
    HostileFile(7, "0 x 0.png", lambda: png(0, 0), "corrupt"),
    HostileFile(8, "2^31 squared.png", lambda: png(HUGE, HUGE), "too-large"),
    HostileFile(9, "1048576 x 1.png", lambda: png(1_048_576, 1), "too-large"),
    HostileFile(10, "bomb 20000 squared.png", _bomb, "too-large"),
    HostileFile(11, "30000 squared 16 bits rgb.png", lambda: png(30_000, 30_000, 16, 2, [bytes(1000)]), "too-large"),
    HostileFile(11, "10000 squared with little data.png", lambda: png(10_000, 10_000, rows=[bytes(1000)]), "corrupt"),
    HostileFile(12, "apng bad filter.png", _apng_bad_filter, "corrupt"),
    HostileFile(13, "apng a million frames.png", _apng_million_frames, "judged"),
    HostileFile(14, "half.jpg", lambda: good(".jpg")[: len(good(".jpg")) // 2], "corrupt"),
    HostileFile(14, "half progressive.jpg", lambda: _progressive()[: len(_progressive()) // 2], "corrupt"),
    HostileFile(14, "garbled.jpg", jpeg_garbled, "corrupt"),
    HostileFile(15, "claims 65500 squared.jpg", lambda: jpeg_claiming(65_500, 65_500), "too-large"),
    HostileFile(15, "claims 14000 squared.jpg", lambda: jpeg_claiming(14_000, 14_000), "corrupt"),
    HostileFile(16, "exif and icc loops.jpg", _jpeg_metadata, "judged"),
    HostileFile(16, "180 kB of comments.jpg", _jpeg_comments, "judged"),
    HostileFile(17, "a million by a thousand.bmp", lambda: _bmp(1_000_000, 1000), "corrupt"),
    HostileFile(18, "negative width.bmp", lambda: _bmp(-300, 200), "corrupt"),
    HostileFile(18, "most negative height.bmp", lambda: _bmp(300, -(2**31)), "corrupt"),
    HostileFile(19, "run-length 30000 squared.bmp", lambda: _bmp(30_000, 30_000, 1, 8, 1), "too-large"),
    HostileFile(20, "half then zeros.png", partial(_half_zeros, good(".png")), "corrupt"),
    HostileFile(20, "half then zeros.jpg", partial(_half_zeros, good(".jpg")), "corrupt"),
    HostileFile(20, "half then zeros.pgm.bmp", lambda: b"P5 300 200 255\n" + bytes(60_000), "format"),
    HostileFile(21, "pgm 32767 squared.png", lambda: b"P5 32767 32767 255\n", "format"),
    HostileFile(22, "pam 30000 squared.png", lambda: b"P7\nWIDTH 30000\nHEIGHT 30000\nDEPTH 4\nMAXVAL 255\nENDHDR\n", "format"),
    HostileFile(23, "radiance 30000 squared.png", lambda: b"#?RADIANCE\n\n-Y 30000 +X 30000\n", "format"),
    HostileFile(24, "sun raster 30000 squared.png", lambda: struct.pack(">8I", 0x59A66A95, 30_000, 30_000, 8, 0, 2, 0, 0), "format"),
    HostileFile(25, "gif 65535 squared.png", lambda: b"GIF89a\xff\xff\xff\xff" + bytes(25), "format"),
    HostileFile(26, "2^31 strips.tif", lambda: tiff_file((273, 4, HUGE, 8), (279, 4, HUGE, 8)), "corrupt"),
    HostileFile(26, "a strip of 2^31 bytes.tif", lambda: tiff_file((279, 4, 1, HUGE)), "corrupt"),
    HostileFile(26, "a strip for each of 60000 squared.tif", lambda: tiff_file((256, 4, 1, 60_000), (257, 4, 1, 60_000)), "too-large"),
    HostileFile(26, "2^64 wide.tif", _big_tiff, "too-large"),
    HostileFile(26, "negative width.tif", lambda: tiff_file((256, 9, 1, 2**32 - 5)), "corrupt"),
    HostileFile(27, "directory loop.tif", _tiff_loop, "corrupt"),
    HostileFile(27, "directory inside itself.tif", _sub_directory_loop, "judged"),
    HostileFile(28, "2^31 bits per sample.tif", lambda: tiff_file((258, 3, HUGE, 8)), "corrupt"),
    HostileFile(28, "65535 entries.tif", lambda: _patched(tiff_file(), 8 + 64 * 48, b"\xff\xff"), "corrupt"),
    HostileFile(29, "jpeg 2000.png", lambda: b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 " + bytes(60), "format"),
    HostileFile(49, "avif.png", lambda: b"\0\0\0\x20ftypavif" + bytes(500), "format"),
    HostileFile(49, "webp.png", partial(encoded, ".webp", wafer(48, 64)), "format"),
    HostileFile(49, "a sound jpeg 2000.png", partial(encoded, ".jp2", wafer(48, 64)), "format"),
    HostileFile(49, "openexr.png", lambda: struct.pack("<II", 20000630, 2) + b"channels\0chlist\0" + bytes(60), "format"),
    HostileFile(49, "jpeg xl.png", lambda: b"\xff\x0a" + bytes(60), "format"),
    HostileFile(49, "pickle.png", lambda: b"\x80\x04cos\nsystem\n(S'id'\ntR.", "format"),
    HostileFile(50, "polyglot.png", _polyglot, "judged"),
    HostileFile(50, "bmp with a jpeg behind.bmp", lambda: good(".bmp") + good(".jpg"), "judged"),
)  # fmt: skip

NAMES: tuple[tuple[int, bytes], ...] = (
    (36, b'line\n{"event":"forged"}.png'),
    (36, b"carriage\rreturn.png"),
    (37, b"\x1b[31mred\x1b[2J\x07\x9b.png"),
    (38, b"\xff\xfe no utf-8 \x80.png"),
    (39, "right-to-left\u202egnp.exe.png".encode()),
    (39, "caf\u00e9.png".encode()),
    (39, "cafe\u0301.png".encode()),
    (39, "\u0430dmin zero\u200bwidth.png".encode()),
    (40, b"n" * 251 + b".png"),
    (40, b"-rf.png"),
    (40, b"--help.png"),
    (40, b"$(id).png"),
    (40, b"`id`;id|id&.png"),
    (40, b"%n%s%x%%.png"),
    (40, b"{0.__class__}{lot_id}.png"),
    (41, b"+.png"),
    (41, b"#.png"),
    (41, b"a+b#c$SYS.png"),
    (41, b"%00 \\0 nul.png"),
    (41, b"'single' \"double\" \\ back.png"),
    (41, b"<img src=x onerror=alert(1)>&lt;.png"),
    (41, b"'; DROP TABLE landing; --.png"),
)

SIDECARS: tuple[tuple[str, Callable[[], bytes]], ...] = (
    ("a million deep", lambda: b"[" * 500_000 + b"]" * 500_000),
    ("a million deep in objects", lambda: b'{"a":' * 170_000),
    ("not a number", lambda: b'{"lot_id": "L1", "wafer_id": NaN}'),
    ("a key twice", lambda: b'{"lot_id": "L1", "lot_id": "L2"}'),
    ("a long key over many values", lambda: b'{"' + b"k" * 500_000 + b'": [' + b"0," * 240_000 + b"0]}"),
    ("a long number", lambda: b'{"slot": ' + b"9" * 900_000 + b"}"),
    ("many keys", lambda: b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}"),
    ("no utf-8", lambda: b'{"lot_id": "\xff\xfe"}'),
    ("control characters", lambda: b'{"lot_id": "L\\u0000\\u001b[31m\\n", "wafer_id": "\\u202eW"}'),
)
