"""What reaches a codec: the four formats, in the packings that edged names, and nothing that merely claims to be one of them."""

from __future__ import annotations

import ast
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.decoder_images import encoded, tiff_pages, wafer
from edged.errors import FrameRejected
from edged.vision.decode import decode
from edged.vision.headers import Limits, inspect, media_type
from rigs.hostile import good, tiff_file

LIMITS = Limits(1 << 30, 200_000_000, 65_500, 100)
EDGED = Path(__file__).parents[2] / "edged"
READERS = {
    "imread",
    "imreadmulti",
    "imdecode",
    "imdecodemulti",
    "imreadanimation",
    "imdecodeanimation",
    "VideoCapture",
    "imcount",
    "FileStorage",
}
MAGICS = {
    "gif": b"GIF89a", "webp": b"RIFF\x40\0\0\0WEBPVP8 ", "jp2": b"\0\0\0\x0cjP  \r\n\x87\n", "j2k": b"\xff\x4f\xff\x51",
    "exr": b"v/1\x01", "hdr": b"#?RADIANCE\n", "pgm": b"P5 8 8 255\n", "pam": b"P7\n", "pfm": b"PF\n", "sun": b"\x59\xa6\x6a\x95",
    "avif": b"\0\0\0\x20ftypavif", "jxl": b"\xff\x0a", "dicom": bytes(128) + b"DICM", "ico": b"\0\0\1\0", "psd": b"8BPS",
    "gz": b"\x1f\x8b\x08", "zip": b"PK\3\4", "elf": b"\x7fELF", "pickle": b"\x80\4", "svg": b"<svg", "pdf": b"%PDF-1.7",
    "jpeg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n", "bmp": b"BM" + bytes(12) + b"\x28\0\0\0", "dng": b"II*\0",
    "tiff": b"II*\0\x08\0\0\0", "big tiff": b"MM\0+\0\x08\0\0", "cr2": b"II*\0\x10\0\0\0CR",
}  # fmt: skip


def reason(data: bytes) -> str:
    try:
        decode(data, inspect(data, LIMITS))
    except FrameRejected as error:
        return error.reason
    return ""


def test_one_place_of_edged_asks_a_codec() -> None:
    found = set()
    for path in EDGED.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in READERS and isinstance(node.value, ast.Name) and node.value.id == "cv2":
                found.add((path.relative_to(EDGED).as_posix(), node.attr))
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} | {str(getattr(node, "module", "")).partition(".")[0]}
                assert not names & {"PIL", "imageio", "tifffile", "skimage", "matplotlib", "pickle"}, path
    assert found == {("vision/decode.py", "imdecode")}


@settings(max_examples=150)
@given(st.sampled_from(sorted(MAGICS)), st.binary(max_size=200), st.sampled_from([".png", ".jpg", ".bmp", ".tiff"]), st.integers(0, 64))
def test_whatever_the_magic_a_codec_sees_one_of_the_four_formats_only(magic: str, noise: bytes, suffix: str, cut: int) -> None:
    seen: list[bytes] = []
    original = cv2.imdecode

    def watched(data: Any, flags: int) -> Any:
        seen.append(bytes(data[:16]))
        return original(data, flags)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, "imdecode", watched)
        for data in (MAGICS[magic] + noise, MAGICS[magic] + good(suffix)[cut:], good(suffix)[:cut] + MAGICS[magic] + good(suffix)[cut:]):
            reason(data)
    assert all(media_type(head + bytes(16)) is not None for head in seen)


@pytest.mark.parametrize(
    "packing", [2, 3, 4, 6, 9, 32_766, 32_809, 32_908, 34_661, 34_676, 34_677, 34_712, 34_887, 34_925, 50_000, 50_001, 0, 65_535]
)
def test_packings_inside_a_tiff_that_edged_does_not_name_reach_no_codec(packing: int) -> None:
    assert reason(tiff_file((259, 3, 1, packing))) == "format"


@pytest.mark.parametrize("packing", [1, 5, 7, 8, 32_773, 32_946])
def test_the_packings_that_cameras_write_are_read(packing: int) -> None:
    done, data = cv2.imencode(".tiff", wafer(48, 64), [cv2.IMWRITE_TIFF_COMPRESSION, packing])
    assert done and reason(data.tobytes()) == ""


@pytest.mark.parametrize("packing", [4, 5, 7, 11, 12, 13, 2**31])
def test_a_bmp_that_holds_a_jpeg_or_a_png_reaches_no_codec(packing: int) -> None:
    data = bytearray(good(".bmp"))
    struct.pack_into("<I", data, 30, packing)
    assert reason(bytes(data)) == "format"


@pytest.mark.parametrize("kind", [0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF])
def test_lossless_hierarchical_and_arithmetic_jpegs_reach_no_codec(kind: int) -> None:
    data = bytearray(good(".jpg"))
    data[data.index(b"\xff\xc0") + 1] = kind
    assert reason(bytes(data)) == "format"


def test_a_jpeg_inside_a_tiff_that_claims_another_size_is_corrupt() -> None:
    done, encoded_tiff = cv2.imencode(".tiff", wafer(48, 64), [cv2.IMWRITE_TIFF_COMPRESSION, 7])
    data = bytearray(encoded_tiff.tobytes())
    assert done and reason(bytes(data)) == ""
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65_500, 65_500)
    assert reason(bytes(data)) == "corrupt"


def test_only_the_page_of_an_unknown_packing_is_refused(tmp_path: Path) -> None:
    data = bytearray(tiff_pages(tmp_path / "a.tif", wafer(20, 30), wafer(20, 30, 2)).read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    entry = next(at for at in range(first + 2, first + 2 + 12 * count, 12) if struct.unpack_from("<H", data, at)[0] == 259)
    struct.pack_into("<H", data, entry + 8, 50_001)
    header = inspect(bytes(data), LIMITS)
    assert [page.refused[0] if page.refused else "" for page in header.pages] == ["format", ""]
    assert np.array_equal(decode(bytes(data), header, 1), wafer(20, 30, 2))


def test_what_stands_behind_an_image_changes_nothing_of_it() -> None:
    for suffix in (".png", ".jpg", ".bmp", ".tiff"):
        data = encoded(suffix, wafer(48, 64))
        with_more = data + b"PK\3\4<script>" + good(".jpg")
        assert np.array_equal(decode(data, inspect(data, LIMITS)), decode(with_more, inspect(with_more, LIMITS)))
