"""Layouts of made-up dies: what the conductor layer looks like from above, drawn at SUPERSAMPLING times the image's resolution.

Every function takes the random generator first and a side length in sub-pixels; a mask is uint8 [side, side], 255 = conductor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

SUPERSAMPLING = 2
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True, slots=True)
class Layout:
    """mask as above; `tells`: the pattern shows which part is conductor (of lines and spaces alone nobody could say)."""

    mask: Mask
    tells: bool


def draw_layout(rng: np.random.Generator, size: int) -> Layout:
    """A random layout; its mask is uint8 [SUPERSAMPLING * size, SUPERSAMPLING * size], `size` the image's side in pixels."""
    side = SUPERSAMPLING * size
    kind = str(rng.choice((*LAYOUTS, "mixed"), p=(0.2, 0.15, 0.12, 0.23, 0.15, 0.15)))
    layout = _mixed(rng, side) if kind == "mixed" else Layout(LAYOUTS[kind](rng, side), kind != "lines")
    mask = np.asarray(layout.mask.T) if rng.random() < 0.5 else layout.mask
    return Layout(np.ascontiguousarray(mask[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]), layout.tells)


def _lines(rng: np.random.Generator, side: int) -> Mask:
    """Lines and spaces, in some places combed together or cut."""
    pitch = _log_uniform(rng, 22, 130)
    width = int(np.clip(pitch * rng.uniform(0.35, 0.65), 8, pitch - 8))
    phase = int(rng.integers(pitch))
    rows = (np.arange(side) + phase) % pitch < width
    mask = np.where(rows[:, None], np.uint8(255), np.uint8(0)).repeat(side, axis=1)
    odd = ((np.arange(side) + phase) // pitch) % 2 == 1
    for _ in range(int(rng.integers(0, 4))):
        x, wide = int(rng.integers(side)), int(rng.integers(10, 3 * pitch))
        if rng.random() < 0.5:
            mask[odd if rng.random() < 0.5 else slice(None), x : x + max(wide, 14)] = 0  # line ends
        else:
            mask[:, x : x + width] = 255  # a spine that joins them
    return mask


def _contacts(rng: np.random.Generator, side: int) -> Mask:
    """An array of contacts or vias, straight or staggered."""
    across, down = _log_uniform(rng, 26, 130), _log_uniform(rng, 26, 130)
    if rng.random() < 0.6:
        down = across
    radius = min(across, down) * rng.uniform(0.22, 0.36)
    cell = np.zeros((2 * down, across), np.uint8)
    shift = across // 2 if rng.random() < 0.4 else 0
    for x, y in ((across // 2, down // 2), *(((across // 2 + shift) + d, down + down // 2) for d in (0, -across))):
        _spot(cell, x, y, radius, round_=bool(across % 2))
    return _tiled(rng, cell, side)


def _pads(rng: np.random.Generator, side: int) -> Mask:
    """Bond pads with a trace from each."""
    mask = np.zeros((side, side), np.uint8)
    pitch = _log_uniform(rng, 150, 420)
    pad, trace = int(pitch * rng.uniform(0.45, 0.75)), int(rng.integers(12, 44))
    down = int(pitch * rng.uniform(1.0, 2.2))
    for y in range(int(rng.integers(-down, 0)), side, down):
        for x in range(int(rng.integers(-pitch, 0)), side, pitch):
            cv2.rectangle(mask, (x, y), (x + pad, y + pad), 255, -1)
            middle = x + pad // 2
            cv2.rectangle(mask, (middle - trace // 2, y + pad), (middle + trace // 2, y + down), 255, -1)
    if rng.random() < 0.4:
        y = int(rng.integers(side))
        cv2.rectangle(mask, (0, y), (side, y + 2 * trace), 0 if rng.random() < 0.5 else 255, -1)
    return mask


def _traces(rng: np.random.Generator, side: int) -> Mask:
    """Routed traces that never touch, with vias at their ends."""
    mask = np.zeros((side, side), np.uint8)
    grid = _log_uniform(rng, 36, 96)
    width = max(10, int(grid * rng.uniform(0.3, 0.55)))
    cells = side // grid + 3
    taken = np.zeros((cells, cells), bool)
    via = int(width * rng.uniform(0.6, 0.85))
    offset = int(rng.integers(grid))
    for _ in range(cells * 2):
        path = _walk(rng, taken)
        if len(path) < 2:
            continue
        points = np.array(path, np.int32) * grid - offset
        cv2.polylines(mask, [points], False, 255, width)
        for x, y in (points[0], points[-1]):
            cv2.circle(mask, (int(x), int(y)), via, 255, -1)
            if via > 14:
                cv2.circle(mask, (int(x), int(y)), via // 3, 0, -1)
    return mask


def _walk(rng: np.random.Generator, taken: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """A path over free grid points, mostly straight; marks what it takes."""
    cells = len(taken)
    x, y = int(rng.integers(cells)), int(rng.integers(cells))
    if taken[y, x]:
        return []
    taken[y, x] = True
    path, heading = [(x, y)], int(rng.integers(4))
    for turn in rng.random(int(rng.integers(6, 3 * cells))):
        if turn < 0.2:
            heading = (heading + (1 if turn < 0.1 else 3)) % 4
        x, y = x + _STEPS[heading][0], y + _STEPS[heading][1]
        if not (0 <= x < cells and 0 <= y < cells) or taken[y, x]:
            break
        taken[y, x] = True
        path.append((x, y))
    return path


def _memory(rng: np.random.Generator, side: int) -> Mask:
    """A cell of a few rectangles, mirrored and repeated in blocks with streets between them."""
    wide, high = int(rng.integers(50, 150)), int(rng.integers(50, 150))
    cell = np.zeros((high, wide), np.uint8)
    stroke = int(rng.integers(10, 22))
    for _ in range(int(rng.integers(2, 5))):
        x, y = int(rng.integers(0, wide - stroke)), int(rng.integers(0, high - stroke))
        if rng.random() < 0.5:
            cell[y : y + stroke, x : x + int(rng.integers(stroke, wide))] = 255
        else:
            cell[y : y + int(rng.integers(stroke, high)), x : x + stroke] = 255
    mirrored = np.hstack([cell, cell[:, ::-1]])
    mask = _tiled(rng, np.vstack([mirrored, mirrored[::-1]]), side)
    for axis, length in ((0, high), (1, wide)):
        street = length * int(rng.integers(3, 9))
        free = (np.arange(side) + int(rng.integers(street))) % street < length // 2
        if axis == 0:
            mask[free] = 0
        else:
            mask[:, free] = 0
    return mask


def _mixed(rng: np.random.Generator, side: int) -> Layout:
    """Two to four regions, each with a layout of its own, a gap between them."""
    mask, tells = np.zeros((side, side), np.uint8), True
    x, y, gap = *(int(side * rng.uniform(0.25, 0.75)) for _ in range(2)), int(rng.integers(8, 40))
    rows = ((0, y), (y + gap, side)) if rng.random() < 0.7 else ((0, side),)
    for top, bottom in rows:
        for left, right in ((0, x), (x + gap, side)):
            kind = str(rng.choice(tuple(LAYOUTS)))
            mask[top:bottom, left:right] = LAYOUTS[kind](rng, side)[top:bottom, left:right]
            tells = tells and kind != "lines"
    return Layout(mask, tells)


LAYOUTS: dict[str, Callable[[np.random.Generator, int], Mask]] = {
    "lines": _lines,
    "contacts": _contacts,
    "pads": _pads,
    "traces": _traces,
    "memory": _memory,
}


def _spot(cell: Mask, x: int, y: int, radius: float, *, round_: bool) -> None:
    reach = int(radius)
    if round_:
        cv2.circle(cell, (x, y), reach, 255, -1)
    else:
        cv2.rectangle(cell, (x - reach, y - reach), (x + reach, y + reach), 255, -1)


def _tiled(rng: np.random.Generator, cell: Mask, side: int) -> Mask:
    high, wide = cell.shape
    tiled = np.tile(cell, (side // high + 2, side // wide + 2))
    y, x = int(rng.integers(high)), int(rng.integers(wide))
    return np.ascontiguousarray(tiled[y : y + side, x : x + side])


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high))))
