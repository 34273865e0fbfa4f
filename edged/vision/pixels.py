"""Small exact steps on pixels: to gray, to 8 bits, and the one way pages are resized. These are part of the models' contract."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_INTERPOLATION = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR}


def gray(page: NDArray[Any]) -> NDArray[Any]:
    """(H, W) of a page that may be (H, W, 3) BGR."""
    return page if page.ndim == 2 else cv2.cvtColor(page, cv2.COLOR_BGR2GRAY)


def to_8bit(page: NDArray[Any], window: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A 16-bit page as 8-bit: [low, high] stretched to 0..255 and clipped; without a window its high byte. 8-bit pages pass."""
    if page.dtype == np.uint8:
        return page
    if window is None:
        return (page >> 8).astype(np.uint8)
    low, high = window
    # Never below 0 in uint16; convertScaleAbs saturates at 255.
    raised = np.maximum(page, np.uint16(low)) - np.uint16(low)
    stretched: NDArray[np.uint8] = cv2.convertScaleAbs(raised, alpha=255.0 / (high - low)).reshape(page.shape)
    return stretched


def resize(image: NDArray[Any], width: int, height: int, interpolation: str) -> NDArray[Any]:
    """`area`: INTER_LINEAR when an axis grows; else exact 2:1 halvings while both sides are even and at least twice the target, then
    INTER_AREA for what is left. An exact power of two so gives what one INTER_AREA gives, other ratios differ by less than a gray level
    on average and cost a third. `nearest` and `linear` are OpenCV's own in one step."""
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    if interpolation != "area":
        return cv2.resize(image, (width, height), interpolation=_INTERPOLATION[interpolation])
    if columns < width or rows < height:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    while columns >= 2 * width and rows >= 2 * height and columns % 2 == 0 and rows % 2 == 0:
        columns, rows = columns // 2, rows // 2
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    if (columns, rows) == (width, height):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
