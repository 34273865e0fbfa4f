"""Focus and exposure of a page, measured on its gray 8-bit pixels before any preparation.

Pages of more than SAMPLE_PX pixels are sampled, so that the measure costs little beside the decode: sharpness on BANDS bands of whole rows
at native scale (focus is a matter of neighbouring pixels, so nothing is scaled), exposure on every k-th row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.nouns import Quality
from edged.vision.pixels import gray, to_8bit

if TYPE_CHECKING:
    from edged.config import QualityLimits

SAMPLE_PX = 65_536
BANDS = 4
SATURATED, DARK = np.array([254.0]), np.array([1.0])
_WHITE, _BLACK = np.array([255.0]), np.array([0.0])


@dataclass(frozen=True, slots=True)
class Measured:
    """`sharpness`: variance of the Laplacian; `mean` 0..255; the fractions of pixels >= 254 and <= 1."""

    sharpness: float
    mean: float
    saturated_frac: float
    dark_frac: float


def measure(page: NDArray[Any], window: tuple[int, int] | None = None) -> Measured:
    """Of a page as decoded, (H, W) or (H, W, 3) BGR; a 16-bit page is looked at through `window`, or its high byte without one."""
    step = max(1, page.shape[0] * page.shape[1] // SAMPLE_PX)
    rows = _gray_8bit(page[::step], window)
    pixels = float(rows.size)
    return Measured(
        sharpness=_sharpness(page, window),
        mean=cv2.mean(rows)[0],
        saturated_frac=cv2.countNonZero(cv2.inRange(rows, SATURATED, _WHITE)) / pixels,
        dark_frac=cv2.countNonZero(cv2.inRange(rows, _BLACK, DARK)) / pixels,
    )


def _sharpness(page: NDArray[Any], window: tuple[int, int] | None) -> float:
    height, width = page.shape[:2]
    if height * width <= SAMPLE_PX:
        bands = [page]
    else:
        rows = max(3, SAMPLE_PX // width // BANDS)
        starts = [(height - rows) * (2 * i + 1) // (2 * BANDS) for i in range(BANDS)] if height > rows else [0]
        bands = [page[start : start + rows] for start in starts]
    first = second = 0.0
    for band in bands:
        mean, deviation = cv2.meanStdDev(cv2.Laplacian(_gray_8bit(band, window), cv2.CV_16S))
        first += mean.item() / len(bands)
        second += (deviation.item() ** 2 + mean.item() ** 2) / len(bands)
    return max(0.0, second - first * first)


def _gray_8bit(part: NDArray[Any], window: tuple[int, int] | None) -> NDArray[np.uint8]:
    return to_8bit(gray(part), window)


def judge(measured: Measured, limits: QualityLimits | None) -> Quality:
    """The measured figures against a recipe's limits; without limits all is well."""
    problems: list[str] = []
    if limits is not None:
        if limits.min_sharpness is not None and measured.sharpness < limits.min_sharpness:
            problems.append(f"sharpness {measured.sharpness:.1f} is below {limits.min_sharpness:g}")
        if limits.min_mean is not None and measured.mean < limits.min_mean:
            problems.append(f"mean {measured.mean:.1f} is below {limits.min_mean:g}")
        if limits.max_mean is not None and measured.mean > limits.max_mean:
            problems.append(f"mean {measured.mean:.1f} is above {limits.max_mean:g}")
        if limits.max_saturated_frac is not None and measured.saturated_frac > limits.max_saturated_frac:
            problems.append(f"saturated fraction {measured.saturated_frac:.4f} is above {limits.max_saturated_frac:g}")
    return Quality(
        ok=not problems,
        sharpness=measured.sharpness,
        mean=measured.mean,
        saturated_frac=measured.saturated_frac,
        dark_frac=measured.dark_frac,
        problems=tuple(problems),
    )
