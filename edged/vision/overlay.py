"""Pictures for people: defect boxes on a page, and thumbnails as JPEG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.nouns import Defect
from edged.vision.pixels import resize, to_8bit

_PALETTE = ((48, 59, 255), (0, 149, 255), (0, 204, 255), (89, 199, 52), (255, 122, 0), (214, 86, 88), (222, 82, 175), (250, 200, 90))


def draw(page: NDArray[Any], defects: Sequence[Defect], window: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The page in colour (H, W, 3 BGR, a copy) with each defect's box, name and confidence; one colour a class, in order of name."""
    out = to_8bit(page, window)
    image = cv2.cvtColor(out, cv2.COLOR_GRAY2BGR) if out.ndim == 2 else out.copy()
    height, width = image.shape[:2]
    line = max(1, round(min(width, height) / 320))
    size = max(0.35, min(width, height) / 1200)
    colours = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(sorted({defect.name for defect in defects}))}
    for defect in defects:
        x, y, w, h = defect.box_px or (0, 0, width, height)
        colour = colours[defect.name]
        cv2.rectangle(image, (round(x), round(y)), (round(x + w) - 1, round(y + h) - 1), colour, line)
        label = f"{defect.name} {defect.confidence:.2f}"
        (_, tall), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, size, line)
        at = (max(0, round(x)), round(y) - base if y > tall + base else round(y + h) + tall + base)
        # A dark line under the bright one keeps the words readable on any image.
        cv2.putText(image, label, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), line + 2, cv2.LINE_AA)
        cv2.putText(image, label, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, line, cv2.LINE_AA)
    return image  # type: ignore[return-value]


def thumbnail(page: NDArray[Any], max_side_px: int = 320, quality: int = 80, window: tuple[int, int] | None = None) -> bytes:
    """The page as JPEG bytes, no side longer than `max_side_px`, never enlarged."""
    out = to_8bit(page, window)
    height, width = out.shape[:2]
    scale = min(1.0, max_side_px / max(height, width))
    small = resize(out, max(1, round(width * scale)), max(1, round(height * scale)), "area")
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("OpenCV could not encode a thumbnail")
    return encoded.tobytes()
