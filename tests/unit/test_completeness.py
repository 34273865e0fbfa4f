"""Whole images are complete, cut ones and preallocated ones never are, for every format that edged judges."""

from __future__ import annotations

import os
import struct
import tempfile
import time
import zlib
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.intake.completeness import Grade, Structure, check


def examine(data: bytes, *, holes_tell: bool = False) -> Structure:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return check(file.fileno(), len(data), holes_tell=holes_tell)


def grade(data: bytes) -> Grade:
    return examine(data).grade


def encode(extension: str, image: np.ndarray, *parameters: int) -> bytes:
    ok, data = cv2.imencode(extension, image, list(parameters))
    assert ok
    return data.tobytes()


def pages(*images: np.ndarray, compression: int = 1) -> bytes:
    ok, data = cv2.imencodemulti(".tiff", list(images), [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    assert ok
    return data.tobytes()


def big_endian_tiff(image: np.ndarray) -> bytes:
    """One strip behind the directory, as many cameras write it: a preallocated tail then hits the pixels."""
    height, width = image.shape
    tags = [(256, 3, width << 16), (257, 3, height << 16), (258, 3, 8 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16)]
    tags += [(273, 4, 8 + 2 + 8 * 12 + 4), (277, 3, 1 << 16), (279, 4, image.nbytes)]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"MM\0*" + struct.pack(">I", 8) + directory + struct.pack(">I", 0) + image.tobytes()


def big_tiff(image: np.ndarray) -> bytes:
    """BigTIFF, little endian, one strip, the directory at the end."""
    height, width = image.shape
    values = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 16), (277, 1), (279, image.nbytes))
    directory = struct.pack("<Q", len(values)) + b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in values)
    return b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + image.nbytes) + image.tobytes() + directory + struct.pack("<Q", 0)


@cache
def images() -> dict[str, bytes]:
    rng = np.random.default_rng(7)
    gray = rng.integers(1, 255, (48, 64), np.uint8)
    smooth = cv2.GaussianBlur(rng.integers(1, 255, (96, 128, 3), np.uint8), (9, 9), 3)
    deep = rng.integers(256, 65535, (40, 50), np.uint16)
    return {
        "jpeg baseline": encode(".jpg", smooth, cv2.IMWRITE_JPEG_QUALITY, 90),
        "jpeg gray optimised": encode(".jpg", gray, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        "jpeg progressive": encode(".jpg", smooth, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "jpeg with restarts": encode(".jpg", smooth, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "png": encode(".png", smooth),
        "png 16 bit": encode(".png", deep),
        "bmp": encode(".bmp", smooth),
        "bmp gray": encode(".bmp", gray),
        "tiff raw": encode(".tiff", smooth, cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "tiff lzw": encode(".tiff", smooth, cv2.IMWRITE_TIFF_COMPRESSION, 5),
        "tiff deflate 16 bit": encode(".tiff", deep, cv2.IMWRITE_TIFF_COMPRESSION, 8),
        "tiff multi-page": pages(gray, gray[::-1].copy()),
        "tiff multi-page lzw": pages(gray, smooth, compression=5),
        "tiff big endian": big_endian_tiff(gray),
        "bigtiff": big_tiff(gray),
    }


NAMES = list(images())


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_image_is_complete(name: str) -> None:
    assert examine(images()[name]) == Structure.complete()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_image_is_complete_on_a_real_file_system_that_tells_holes(name: str) -> None:
    assert examine(images()[name], holes_tell=True).grade is Grade.COMPLETE


@pytest.mark.parametrize("name", NAMES)
def test_an_image_cut_at_any_of_many_bytes_is_not_complete(name: str) -> None:
    data = images()[name]
    cuts = {*range(40), *range(len(data) - 40, len(data)), *range(40, len(data), max(1, len(data) // 30))}
    wrong = [at for at in sorted(cuts) if 0 <= at < len(data) and grade(data[:at]) is not Grade.INCOMPLETE]
    assert wrong == []


@settings(max_examples=60)
@given(name=st.sampled_from(NAMES), fraction=st.floats(0, 1, exclude_max=True))
def test_a_cut_image_is_never_complete(name: str, fraction: float) -> None:
    data = images()[name]
    assert grade(data[: int(len(data) * fraction)]) is Grade.INCOMPLETE


@settings(max_examples=60)
@given(name=st.sampled_from(NAMES), fraction=st.floats(0, 1, exclude_max=True))
def test_a_preallocated_image_with_a_tail_of_zeros_is_never_complete(name: str, fraction: float) -> None:
    data = images()[name]
    at = min(int(len(data) * fraction), len(data) - 64)
    assert grade(data[:at] + bytes(len(data) - at)) in (Grade.INCOMPLETE, Grade.SUSPECT)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("jpeg", "png"))])
def test_a_preallocated_compressed_image_lacking_its_last_byte_is_not_complete(name: str) -> None:
    assert grade(images()[name][:-1] + b"\0") is Grade.INCOMPLETE


@settings(max_examples=40)
@given(name=st.sampled_from([name for name in NAMES if "tiff" not in name]), trailer=st.binary(min_size=1, max_size=300))
def test_metadata_after_the_image_does_no_harm(name: str, trailer: bytes) -> None:
    assert grade(images()[name] + trailer) is Grade.COMPLETE


def test_a_jpeg_with_much_metadata_behind_it_is_complete() -> None:
    assert grade(images()["jpeg baseline"] + b"x" * 100_000) is Grade.COMPLETE


def test_a_jpeg_padded_with_zeros_behind_its_end_is_complete() -> None:
    assert grade(images()["jpeg baseline"] + bytes(100_000)) is Grade.COMPLETE


def test_the_thumbnail_inside_a_cut_jpeg_does_not_count_as_its_end() -> None:
    data = images()["jpeg baseline"]
    exif = b"Exif\0\0" + data
    with_thumbnail = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert grade(with_thumbnail) is Grade.COMPLETE
    assert {grade(with_thumbnail[:at]) for at in range(len(data) // 2, len(with_thumbnail), 97)} == {Grade.INCOMPLETE}


def test_the_break_moves_while_a_preallocated_file_is_filled() -> None:
    data = images()["bmp"]
    breaks = [examine(data[:at] + bytes(len(data) - at)).at for at in range(1000, len(data) - 1000, 1000)]
    assert breaks == sorted(breaks)
    assert len(set(breaks)) == len(breaks)


def test_a_black_image_without_compression_is_doubted_not_condemned() -> None:
    for extension in (".bmp", ".tiff"):
        black = encode(extension, np.zeros((64, 64), np.uint8), cv2.IMWRITE_TIFF_COMPRESSION, 1)
        assert grade(black) in (Grade.SUSPECT, Grade.COMPLETE)


def test_a_page_that_no_directory_names_yet_makes_a_tiff_doubtful() -> None:
    one, two = pages(images_gray(1)), pages(images_gray(1), images_gray(2))
    assert grade(two) is Grade.COMPLETE
    assert grade(one + b"\x55" * 2000) is Grade.SUSPECT


def images_gray(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (32, 32), np.uint8)


def test_a_hole_in_the_file_is_space_not_written_yet() -> None:
    data = encode(".bmp", np.full((300, 300), 200, np.uint8))
    with tempfile.TemporaryFile() as file:
        file.write(data[:8192])
        file.seek(len(data) - 4096)
        file.write(data[-4096:])
        file.flush()
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(data):
            pytest.skip("this file system keeps no holes")
        found = check(file.fileno(), len(data), holes_tell=True)
    assert (found.grade, found.at) == (Grade.INCOMPLETE, 8192)


BEGINNINGS = [b"", b"\xff", b"\xff\xd8", b"\x89PN", b"B", b"II", b"MM\0", bytes(16), bytes(100_000), b"\xff\xd8" + bytes(5000)]


@pytest.mark.parametrize("data", BEGINNINGS)
def test_a_file_that_has_hardly_begun_is_incomplete(data: bytes) -> None:
    assert grade(data) is Grade.INCOMPLETE


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is text renamed to .png" * 10,
        b"GIF89a" + b"\x01" * 100,
        b"\xff\xd8\xff\xe0\x00\x04ab" + b"garbage" * 50,
        b"\x89PNG\r\n\x1a\n" + b"\x01" * 100,
        b"\xff\xd8" + b"\xff" * 300_000,
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 330, 4, 1, 8, 8) + b"x" * 100,
        b"BM" + b"\xff" * 200,
    ],
)
def test_bytes_that_are_no_image_are_left_to_the_decoder(data: bytes) -> None:
    assert grade(data) is Grade.UNKNOWN


def test_a_corrupt_checksum_is_left_to_the_decoder_at_once() -> None:
    data = bytearray(images()["png"])
    data[20] ^= 0x55
    assert grade(bytes(data)) is Grade.UNKNOWN


def test_a_png_of_a_million_empty_chunks_is_refused_quickly() -> None:
    header = images()["png"][:33]
    empty = struct.pack(">I", 0) + b"teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    assert grade(header + empty * 210_000) is Grade.UNKNOWN


def test_a_small_hostile_file_costs_no_minutes() -> None:
    markers = images()["jpeg progressive"][:-2] + b"\xff\xc4\x00\x02" * 150_000
    # Three hundred directories of sixty thousand entries lie over one another: each 12 bytes are a count and most of an entry.
    count, entries = 300, 60_000
    places = b"".join(struct.pack("<I", 26 + 4 * count + 12 * number) for number in range(count))
    overlapping = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIII", 1, 330, 4, count, 26, 0) + places
    overlapping += struct.pack("<HHHIH", entries, 694, 1, 1, 0) * (entries + 6000)
    began = time.monotonic()
    assert grade(markers) in (Grade.UNKNOWN, Grade.INCOMPLETE)
    assert grade(overlapping) is Grade.UNKNOWN
    assert time.monotonic() - began < 10


@settings(max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    spots=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_no_damage_makes_the_check_fail(name: str, spots: list[tuple[float, int]]) -> None:
    data = bytearray(images()[name])
    for fraction, value in spots:
        data[int(min(fraction, fraction * fraction * 2) * len(data)) % len(data)] = value
    assert grade(bytes(data)) in set(Grade)
