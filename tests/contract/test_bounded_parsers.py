"""Files made to keep our own parsers busy: the time they take grows with their size, never faster, and never to minutes."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.decoder_images import chunk, encoded, wafer
from edged.config import IdentityKind, IdentitySource
from edged.errors import FrameRejected
from edged.intake.completeness import Grade, check
from edged.intake.identity import explain, sidecar_worth_waiting
from edged.vision.headers import Limits, inspect
from rigs.hostile import looping_exif

LIMITS = Limits(1 << 29, 200_000_000, 65_500, 100)
BASE = 1 << 20
PNG_HEAD = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))


def fill_bytes(size: int) -> bytes:
    return b"\xff\xd8" + b"\xff" * size


def tiny_segments(size: int) -> bytes:
    return b"\xff\xd8" + b"\xff\xe0\0\2" * (size // 4)


def exif_again_and_again(size: int) -> bytes:
    block = b"Exif\0\0" + looping_exif()[:60_000]
    return b"\xff\xd8" + (b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block) * (size // len(block))


def restart_markers(size: int) -> bytes:
    jpeg = encoded(".jpg", wafer(64, 64))
    return jpeg[:-2] + b"\xff\xd0" * (size // 2)


def scans_without_end(size: int) -> bytes:
    jpeg = bytearray(encoded(".jpg", wafer(64, 64)))
    jpeg[jpeg.index(b"\xff\xc0") + 1] = 0xC2
    return bytes(jpeg[:-2]) + b"\xff\xda\0\2\0" * (size // 5)


def tiny_chunks(size: int) -> bytes:
    return PNG_HEAD + chunk(b"teSt", b"") * (size // 12)


def large_chunks(size: int) -> bytes:
    return PNG_HEAD + chunk(b"teSt", bytes(65_000)) * (size // 65_012)


def exif_chunks(size: int) -> bytes:
    return PNG_HEAD + chunk(b"eXIf", looping_exif()[:2000]) * (size // 2012)


def directory_chain(size: int) -> bytes:
    """Every directory of 4,000 entries lies two bytes behind the one before, over the same bytes."""
    count = 4000
    out = bytearray(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) * (size // 2))
    return bytes(out)


def pages_that_share_their_strips(size: int) -> bytes:
    """A hundred pages; each lists all bytes of the file as its strips."""
    out = b"II*\0" + struct.pack("<I", 8)
    length = 2 + 7 * 12 + 4
    for page in range(100):
        after = 8 + (page + 1) * length if page < 99 else 0
        strips = size // 2
        entries = (
            (256, 4, 1, 64),
            (257, 4, 1, 48),
            (258, 4, 1, 8),
            (259, 4, 1, 1),
            (262, 4, 1, 1),
            (273, 1, strips, 8),
            (279, 1, strips, 8),
        )
        out += struct.pack("<H", 7) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", after)
    return out + b"\1" * size


def directories_inside_directories(size: int) -> bytes:
    count = min(size // 4, 900_000)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 330, 4, count, 26, 0)
    return head + b"".join(struct.pack("<I", 26 + 4 * n) for n in range(count))


def zeros_behind(size: int) -> bytes:
    return encoded(".bmp", wafer(64, 64)) + bytes(size)


def zeros_after_magic(size: int) -> bytes:
    return b"II*\0\x08\0\0\0" + bytes(size)


def took(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def grades(data: bytes) -> Grade:
    fd = os.memfd_create("bounded")
    try:
        os.pwrite(fd, data, 0)
        return check(fd, len(data)).grade
    finally:
        os.close(fd)


def header(data: bytes) -> str:
    try:
        inspect(data, LIMITS)
    except FrameRejected as error:
        return error.reason
    return ""


MAKERS = [
    fill_bytes, tiny_segments, exif_again_and_again, restart_markers, scans_without_end, tiny_chunks, large_chunks, exif_chunks,
    directory_chain, pages_that_share_their_strips, directories_inside_directories, zeros_behind, zeros_after_magic,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("parser", [grades, header], ids=["structure", "header"])
def test_time_grows_with_the_size_of_a_file_made_to_take_long(make: Callable[[int], bytes], parser: Callable[[bytes], object]) -> None:
    small, large = make(BASE), make(16 * BASE)
    parser(small)
    once, sixteen = took(lambda: parser(small)), took(lambda: parser(large))
    assert sixteen < 16 * 3 * once + 0.4, (once, sixteen)
    assert sixteen < 6


@pytest.mark.parametrize(
    "name", [b"_" * 4000, b"L" * 4000, b"1" * 4000, b"a_1" * 1300, b"/".join([b"1_1"] * 1000)], ids=lambda name: name[:6].decode()
)
@pytest.mark.parametrize(
    "pattern", ["{lot_id}_{wafer_id}_{die_x}_{die_y}_{*}", "{die_x}{die_y}{slot}{site}", "{*}_{lot_id}_{*}_{wafer_id}"]
)
def test_no_name_makes_a_path_template_try_for_long(name: bytes, pattern: str) -> None:
    source = IdentitySource(kind=IdentityKind.PATH_TEMPLATE, pattern=pattern)
    assert took(lambda: explain([source], name + b".png")) < 2


@settings(max_examples=200)
@given(st.binary(max_size=400), st.binary(max_size=80), st.sampled_from([IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML]))
def test_no_bytes_of_a_sidecar_and_no_name_make_identity_fail(body: bytes, name: bytes, kind: IdentityKind) -> None:
    sources = [IdentitySource(kind=kind), IdentitySource(kind=IdentityKind.PATH_TEMPLATE, pattern="{lot_id}_{slot}_{*}")]
    for data in (body, b'{"lot_id": "' + body + b'"}', b"<a><lot_id>" + body + b"</lot_id></a>"):
        found = explain(sources, name, {kind: data}).identity
        assert found.material.lot_id is None or found.material.lot_id.isprintable()
        sidecar_worth_waiting(sources, name, {kind: data})
