"""What became of the file: pages, tensors, and how to fill a model's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Geometry:
    """From model input pixels back to pixels of the original page: x_page = x * scale_x + offset_x (same for y).

    `tile` is the index of the tile in its page, `tiles` how many the page was cut into. `valid` is the [x, y, w, h] of the model input that
    shows the image (the rest is padding).
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    valid: tuple[float, float, float, float]
    tile: int = 0
    tiles: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One model input that lies in one ring slot: `array` is a read-only view, shape `dims` (C, H, W), no batch axis.

    `ring` / `offset` / `nbytes` say where it lies in the shared memory for a Triton that can map it.
    """

    model: int  # index into the recipe's models
    array: NDArray[Any]
    geometry: Geometry
    ring: str
    slot: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Of the page as decoded, before any preparation. `sharpness`: variance of the Laplacian; `mean` 0..255; fractions 0..1."""

    ok: bool
    sharpness: float
    mean: float
    saturated_frac: float
    dark_frac: float = 0.0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the decoder found in the file; `sha256` is of the whole file, the rest of this page. Unknown numbers are None."""

    sha256: str
    bytes: int
    media_type: str | None
    page: int = 0
    pages: int = 1
    width: int | None = None
    height: int | None = None
    bits: int | None = None
    channels: int | None = None
    acquired: datetime | None = None
    acquired_from: str | None = None


@dataclass(frozen=True, slots=True)
class InputPlan:
    """How to fill one model's input: `preprocess` is the recipe's or the model's own, `dims` (C, H, W), `dtype` UINT8 or FP32.

    `reference`: the last channels are the golden reference prepared the same way (zeros where there is none).
    """

    model: str
    preprocess: Any  # edged.config.Preprocess
    dims: tuple[int, int, int]
    dtype: str = "UINT8"
    reference: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PagePart:
    """What a decoder made of one page, or of as many of its tiles as there were free slots. `last`: the page is complete with this part.

    `rejected` = (reason, detail): this page cannot be judged; then there are no tensors.
    """

    image: ImageFacts
    quality: Quality | None
    tensors: tuple[Tensor, ...]
    last: bool
    preprocess_hash: str
    preprocess_steps: tuple[str, ...]
    timing_ms: Mapping[str, float]
    rejected: tuple[str, str] | None = None
