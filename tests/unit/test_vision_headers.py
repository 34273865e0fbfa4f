"""The header check: what an image file says of itself, before any codec."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.decoder_images import chunk, encoded, png, tiff_pages, wafer
from edged.errors import FrameRejected
from edged.vision import tiff
from edged.vision.decode import decode
from edged.vision.headers import Limits, inspect

LIMITS = Limits(1 << 30, 200_000_000, 65_500, 100)
GRAY, DEEP = wafer(20, 30), wafer(20, 30).astype(np.uint16) * 200
COLOUR = np.dstack([GRAY] * 3)


@pytest.mark.parametrize(
    ("suffix", "page", "bits", "channels"),
    [
        (".jpg", GRAY, 8, 1), (".jpg", COLOUR, 8, 3), (".png", GRAY, 8, 1), (".png", COLOUR, 8, 3), (".png", DEEP, 16, 1),
        (".png", np.dstack([COLOUR, GRAY]), 8, 4), (".bmp", GRAY, 8, 1), (".bmp", COLOUR, 8, 3), (".tiff", GRAY, 8, 1),
        (".tiff", COLOUR, 8, 3), (".tiff", DEEP, 16, 1),
    ],
)  # fmt: skip
def test_size_depth_and_channels_are_read_from_the_header(suffix: str, page: np.ndarray, bits: int, channels: int) -> None:
    header = inspect(encoded(suffix, page), LIMITS)
    (facts,) = header.pages
    assert (facts.width, facts.height, facts.bits, facts.channels) == (30, 20, bits, channels)


def exif(stamp: bytes, zone: bytes = b"") -> bytes:
    """A big-endian TIFF block with DateTimeOriginal, and OffsetTimeOriginal when given."""
    tags = [(36867, stamp + b"\0")] + ([(36881, zone + b"\0")] if zone else [])
    sub = 8 + 2 + 12 + 4
    texts_at = sub + 2 + 12 * len(tags) + 4
    entries, texts = b"", b""
    for tag, text in tags:
        entries += struct.pack(">HHII", tag, 2, len(text), texts_at + len(texts))
        texts += text
    first = struct.pack(">HHHIII", 1, 34665, 4, 1, sub, 0)
    return b"MM\0*" + struct.pack(">I", 8) + first + struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0) + texts


def test_the_time_of_acquisition_comes_from_exif_with_its_zone() -> None:
    block = exif(b"2026:11:24 02:00:00", b"+08:00")
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    jpeg = encoded(".jpg", GRAY)
    expected = datetime(2026, 11, 23, 18, tzinfo=UTC)
    header = inspect(jpeg[:2] + segment + jpeg[2:], LIMITS)
    assert (header.acquired, header.acquired_from) == (expected, "exif")
    plain = encoded(".png", GRAY)
    assert inspect(plain[:33] + chunk(b"eXIf", block) + plain[33:], LIMITS).acquired == expected


def test_the_time_of_acquisition_of_a_tiff_is_its_datetime_in_local_time(tmp_path: Path) -> None:
    stamp = b"2026:11:24 02:00:00\0"
    block = b"II*\0" + struct.pack("<IH", 8, 7)
    block += struct.pack("<HHII", 256, 3, 1, 2) + struct.pack("<HHII", 257, 3, 1, 2) + struct.pack("<HHII", 258, 3, 1, 8)
    block += struct.pack("<HHII", 262, 3, 1, 1) + struct.pack("<HHII", 273, 4, 1, 98 + len(stamp)) + struct.pack("<HHII", 279, 4, 1, 4)
    block += struct.pack("<HHII", 306, 2, len(stamp), 98) + struct.pack("<I", 0)
    block += stamp + b"\1\2\3\4"
    header = inspect(block, LIMITS)
    assert header.acquired == datetime(2026, 11, 24, 2).astimezone(UTC) and header.acquired_from == "tiff-datetime"
    assert decode(block, header).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("stamp", ["", "0000:00:00 00:00:00", "yesterday", "2026:13:01 00:00:00"])
def test_an_impossible_time_of_acquisition_is_no_time(stamp: str) -> None:
    assert tiff.moment(stamp) is None


def test_orientation_flags_turn_nothing() -> None:
    block = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    jpeg = encoded(".jpg", GRAY)
    turned = jpeg[:2] + segment + jpeg[2:]
    assert decode(turned, inspect(turned, LIMITS)).shape == (20, 30)


def test_limits_name_the_key_that_would_have_to_be_raised() -> None:
    for data, key in ((png(5000, 5000), "decode.max_pixels"), (png(4_000, 1), "decode.max_side_px")):
        with pytest.raises(FrameRejected, match=key) as rejected:
            inspect(data, Limits(1 << 20, 1_000_000, 3000 if "side" in key else 65_500, 3))
        assert rejected.value.reason == "too-large"
    with pytest.raises(FrameRejected, match=r"decode\.max_file_bytes"):
        inspect(png(10, 10), Limits(10, 1000, 1000, 3))


def test_too_many_pages_reject_the_file(tmp_path: Path) -> None:
    data = tiff_pages(tmp_path / "a.tif", GRAY, GRAY, GRAY, GRAY).read_bytes()
    with pytest.raises(FrameRejected, match="more than 3 pages") as rejected:
        inspect(data, Limits(1 << 20, 1000, 1000, 3))
    assert rejected.value.reason == "too-many-pages"


def test_thumbnails_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    data = bytearray(tiff_pages(tmp_path / "a.tif", GRAY, wafer(5, 6), DEEP).read_bytes())
    where = tiff.layout(bytes(data))
    second = tiff.pages(bytes(data), where, 9)[0][1]
    kind, _, at = second.entries[tiff.NEW_SUBFILE_TYPE]
    struct.pack_into("<I" if kind == 4 else "<H", data, at, 1)
    header = inspect(bytes(data), LIMITS)
    assert [page.bits for page in header.pages] == [8, 16]
    assert np.array_equal(decode(bytes(data), header, 1), DEEP)


def test_every_truncation_of_every_format_is_rejected_before_or_by_the_codec() -> None:
    for suffix in (".jpg", ".png", ".bmp", ".tiff"):
        data = encoded(suffix, wafer(32, 32))
        for length in range(0, len(data) - 12, 13):
            with pytest.raises(FrameRejected):
                decode(data[:length], inspect(data[:length], LIMITS))


CHANGES = st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=4)), max_size=5)


@settings(max_examples=300)
@given(st.sampled_from([".jpg", ".png", ".bmp", ".tiff"]), CHANGES)
def test_no_mutation_makes_the_header_check_fail_in_another_way(suffix: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(encoded(suffix, wafer(16, 24)))
    for at, new in changes:
        data[at % len(data) : at % len(data) + len(new)] = new
    try:
        header = inspect(bytes(data), LIMITS)
    except FrameRejected as error:
        reason = error.reason
    else:
        reason = "fine" if all(page.refused or 0 < page.width * page.height <= 200_000_000 for page in header.pages) else "let through"
    assert reason in {"fine", "format", "corrupt", "too-large", "too-many-pages"}


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_header_check_fail_in_another_way(tail: bytes) -> None:
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM" + bytes(12) + b"\x28\0\0\0", b"II*\0", b"MM\0*", b"II+\0"):
        try:
            inspect(magic + tail, LIMITS)
        except FrameRejected:
            continue


def test_16_bits_survive_the_decode_and_colour_is_bgr() -> None:
    data = encoded(".png", DEEP)
    assert np.array_equal(decode(data, inspect(data, LIMITS)), DEEP)
    page = np.zeros((4, 4, 3), np.uint8)
    page[..., 0] = 200
    data = encoded(".png", page)
    assert decode(data, inspect(data, LIMITS), colour=True)[0, 0].tolist() == [200, 0, 0]
    assert decode(data, inspect(data, LIMITS)).shape == cv2.cvtColor(page, cv2.COLOR_BGR2GRAY).shape
