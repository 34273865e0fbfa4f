"""One page's pixels out of a file's bytes. Orientation flags are ignored: a page is always as stored, so that boxes mean stored pixels.

16-bit pages stay 16-bit here; `prepare` brings them to 8. Colour pages are BGR, as OpenCV has them.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import FrameRejected
from edged.vision.headers import TIFF, Header

_NO_MEMORY = -4


def decode(data: bytes, header: Header, page: int = 0, *, colour: bool = False) -> NDArray[Any]:
    """Page number `page` as (H, W) or, when `colour`, (H, W, 3) BGR; uint8 or uint16. `header` is `inspect`'s answer for `data`.

    Raises FrameRejected: `corrupt`, `too-large` (memory), or why the header refused this page.
    """
    facts = header.pages[page]
    if facts.refused:
        raise FrameRejected(*facts.refused)
    flags = cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    try:
        pixels = cv2.imdecode(np.frombuffer(_single(data, header, page), np.uint8), flags)
    except MemoryError:
        raise _too_large(facts.width, facts.height) from None
    except cv2.error as error:
        if error.code == _NO_MEMORY:
            raise _too_large(facts.width, facts.height) from None
        raise FrameRejected("corrupt", f"the decoder refused it: {error.err}") from None
    if pixels is None:
        raise FrameRejected("corrupt", f"the {header.media_type} data of page {page} does not decode")
    if pixels.shape[:2] != (facts.height, facts.width):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise FrameRejected("corrupt", f"the header says {facts.width} x {facts.height} pixels, {found} came out")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise FrameRejected("format", f"its pixels are {pixels.dtype}; 8 and 16 bits can be judged")
    return pixels


def _too_large(width: int, height: int) -> FrameRejected:
    return FrameRejected("too-large", f"decoding {width} x {height} pixels needs more memory than decode.memory_bytes allows")


def _single(data: bytes, header: Header, page: int) -> bytes | bytearray:
    """The bytes with `page` as the first one: in a TIFF one pointer differs, so a page neither needs nor suffers from the others."""
    if header.media_type != TIFF or header.layout is None or header.pages[page].offset == header.layout.first:
        return data
    patched = bytearray(data)
    where = header.layout
    struct.pack_into(where.order + ("Q" if where.big else "I"), patched, where.pointer_at, header.pages[page].offset)
    return patched
