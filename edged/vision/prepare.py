"""From a decoded page to model inputs, with the geometry that leads back to the page's pixels.

Order, part of every model's contract: colour -> roi -> 16 to 8 bits -> flat field -> CLAHE -> fit -> planes (CHW; rgb order) -> normalise.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import FrameRejected
from edged.nouns import Geometry, InputPlan
from edged.vision.pixels import gray, resize, to_8bit
from edged.vision.steps import window


def prepare(
    page: NDArray[Any], plan: InputPlan, reference: NDArray[Any] | None = None, flat: NDArray[Any] | None = None
) -> list[tuple[NDArray[Any], Geometry]]:
    """The page's model inputs: arrays of shape `plan.dims`, dtype uint8 or float32, one for each tile.

    `page` is (H, W) or (H, W, 3) BGR, 8 or 16 bits. `reference` is the golden page, used when `plan.reference` (zeros when None or of
    another size). `flat` is the flat field's image, required when the plan names one. Raises FrameRejected `shape` when the page does not
    fit the plan.
    """
    golden = None
    if plan.reference and reference is not None and reference.shape[:2] == page.shape[:2]:
        golden = Prepared(reference, plan, flat)
    prepared = Prepared(page, plan, flat)
    return [(np.stack(prepared.planes(i, golden)), prepared.geometries[i]) for i in range(len(prepared.geometries))]


class Prepared:
    """One page brought to 8 bits and corrected; its tensors are cut on demand, one at a time, so that memory stays at one page."""

    def __init__(self, page: NDArray[Any], plan: InputPlan, flat: NDArray[Any] | None = None) -> None:
        self.plan = plan
        self.page_shape = page.shape[:2]
        self.image, origin = _corrected(page, plan, flat)
        self.geometries = _layout(self.image.shape[1], self.image.shape[0], plan, origin)
        self._origin = origin

    def planes(self, index: int, reference: Prepared | None = None) -> list[NDArray[Any]]:
        """The channels of tensor `index`, each a contiguous (H, W) array of the plan's dtype."""
        channels, height, width = self.plan.dims
        planes = self.cut(index)
        missing = channels - len(planes)
        if missing and reference is None:
            planes += [np.zeros((height, width), np.uint8)] * missing
        elif missing and reference is not None:
            golden = reference.cut(index)
            # One reference channel beside colour ones is the reference in gray.
            planes += golden if len(golden) == missing else [cv2.cvtColor(cv2.merge(golden), cv2.COLOR_RGB2GRAY)]
        if self.plan.dtype == "FP32":
            return [_normalised(plane, self.plan.preprocess, channel) for channel, plane in enumerate(planes)]
        return planes

    def cut(self, index: int) -> list[NDArray[Any]]:
        """This page's own uint8 channels of tensor `index`: one, or r g b."""
        p = self.plan.preprocess
        image = _fitted(self.image, self.plan, self.geometries[index], self._origin)
        if p.colour == "gray":
            return [np.ascontiguousarray(image)]
        if image.ndim == 2:
            return [np.ascontiguousarray(image)] * 3
        return list(cv2.split(image))[::-1]


def _corrected(page: NDArray[Any], plan: InputPlan, flat: NDArray[Any] | None) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    p = plan.preprocess
    whole = page.shape[:2]
    image = gray(page) if p.colour == "gray" else page
    origin = (0, 0)
    if p.roi_px is not None:
        x, y, w, h = p.roi_px
        if x + w > whole[1] or y + h > whole[0]:
            raise FrameRejected("shape", f"the page has {whole[1]} x {whole[0]} pixels, roi_px = [{x}, {y}, {w}, {h}] reaches outside it")
        image, origin = image[y : y + h, x : x + w], (x, y)
    out = to_8bit(image, window(p))
    if p.flat_field is not None:
        out = _flattened(out, plan, flat, whole)
    if p.clahe_clip is not None:
        out = _clahe(out, p.clahe_clip, p.clahe_tiles)
    return out, origin


def _flattened(image: NDArray[np.uint8], plan: InputPlan, flat: NDArray[Any] | None, whole: tuple[int, ...]) -> NDArray[np.uint8]:
    if flat is None:
        raise ValueError("a plan with a flat field needs its image")
    p = plan.preprocess
    if flat.shape[:2] == whole and p.roi_px is not None:
        x, y, w, h = p.roi_px
        flat = flat[y : y + h, x : x + w]
    if flat.shape[:2] != image.shape[:2]:
        raise FrameRejected(
            "shape", f"the page has {whole[1]} x {whole[0]} pixels, the flat field {p.flat_field} {flat.shape[1]} x {flat.shape[0]}"
        )
    level = gray(flat).astype(np.float32)
    gain = np.float32(level.mean()) / np.maximum(level, 1.0)
    if image.ndim == 3:
        gain = cv2.merge([gain] * 3)  # type: ignore[assignment]
    return cv2.multiply(image, gain, dtype=cv2.CV_8U)  # type: ignore[return-value]


def _clahe(image: NDArray[np.uint8], clip: float, tiles: int) -> NDArray[np.uint8]:
    equaliser = cv2.createCLAHE(clip, (tiles, tiles))
    if image.ndim == 2:
        return equaliser.apply(image)  # type: ignore[return-value]
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)  # type: ignore[return-value]


def _layout(columns: int, rows: int, plan: InputPlan, origin: tuple[int, int]) -> list[Geometry]:
    p = plan.preprocess
    _, height, width = plan.dims
    x0, y0 = origin
    if p.fit == "none":
        if (columns, rows) != (width, height):
            raise FrameRejected("shape", f"fit = none needs {width} x {height} pixels, the page has {columns} x {rows}")
        return [Geometry(1.0, 1.0, x0, y0, (0, 0, width, height))]
    if p.fit == "stretch":
        return [Geometry(columns / width, rows / height, x0, y0, (0, 0, width, height))]
    if p.fit == "letterbox":
        scale = min(width / columns, height / rows)
        w, h = min(width, max(1, round(columns * scale))), min(height, max(1, round(rows * scale)))
        left, top = (width - w) // 2, (height - h) // 2
        sx, sy = columns / w, rows / h
        return [Geometry(sx, sy, x0 - left * sx, y0 - top * sy, (left, top, w, h))]
    places = [(x, y) for y in _starts(rows, height, p.tile_overlap_px) for x in _starts(columns, width, p.tile_overlap_px)]
    valid = (0, 0, min(width, columns), min(height, rows))
    return [Geometry(1.0, 1.0, x0 + x, y0 + y, valid, i, len(places)) for i, (x, y) in enumerate(places)]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis: every `tile - overlap` pixels, the last one flush with the edge."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _fitted(image: NDArray[np.uint8], plan: InputPlan, geometry: Geometry, origin: tuple[int, int]) -> NDArray[Any]:
    p = plan.preprocess
    _, height, width = plan.dims
    left, top, w, h = (int(v) for v in geometry.valid)
    if p.fit == "tile":
        x, y = int(geometry.offset_x) - origin[0], int(geometry.offset_y) - origin[1]
        part: NDArray[Any] = image[y : y + h, x : x + w]
    elif p.fit == "none":
        part = image
    else:
        part = resize(image, w, h, p.interpolation)
    if (w, h) == (width, height):
        return part
    canvas = np.full((height, width, *image.shape[2:]), p.pad_value, np.uint8)
    canvas[top : top + h, left : left + w] = part
    return canvas


def _normalised(plane: NDArray[np.uint8], preprocess: Any, channel: int) -> NDArray[np.float32]:
    """(value - mean) * scale, in gray levels 0..255."""
    mean = preprocess.mean[channel if len(preprocess.mean) > 1 else 0]
    scale = preprocess.scale[channel if len(preprocess.scale) > 1 else 0]
    return (plane.astype(np.float32) - np.float32(mean)) * np.float32(scale)
