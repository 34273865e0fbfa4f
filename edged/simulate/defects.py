"""Defects drawn onto made-up dies: some change the conductor layer (bridge, open, missing_pattern), some lie on top of it.

A box encloses what changed, with MARGIN_PX around it, cut at the image's border. Every function takes the random generator first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.simulate.layouts import SUPERSAMPLING, Mask

CLASSES = ("particle", "scratch", "bridge", "open", "missing_pattern", "residue")
MARGIN_PX = 3
_TRIES = 40
_SUB = SUPERSAMPLING
_FIXED = 4  # bits behind the point of OpenCV's fixed-point coordinates

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Box:
    """A defect: its class and its box in image pixels, x right, y down, top-left origin."""

    kind: str
    x: float
    y: float
    w: float
    h: float

    def meets(self, other: Box, gap: float = 4.0) -> bool:
        """Whether the two boxes overlap or are closer than `gap` pixels."""
        apart_x = self.x > other.x + other.w + gap or other.x > self.x + self.w + gap
        return not (apart_x or self.y > other.y + other.h + gap or other.y > self.y + self.h + gap)


@dataclass(frozen=True, slots=True)
class Film:
    """Something that lies on the die: opacity 0..1 float32 [h, w] at (x, y) px; `tone` 0..255, `relief` brightens one side (particles)."""

    x: int
    y: int
    opacity: Floats
    tone: float
    relief: float = 0.0


@dataclass(frozen=True, slots=True)
class Defective:
    """A layout with its defects: the changed mask, what lies on top, and the truth."""

    mask: Mask
    films: tuple[Film, ...]
    boxes: tuple[Box, ...]


def add_defects(rng: np.random.Generator, mask: Mask, count: int, tones: tuple[float, float]) -> Defective:
    """Up to `count` defects of random classes on a layout (fewer where no free place is found).

    `tones` are the gray levels of substrate and conductor; whatever lies on top differs from both.
    """
    changed, films, boxes = mask.copy(), list[Film](), list[Box]()
    for kind in rng.permutation(np.resize(rng.permutation(CLASSES), count)):
        for _ in range(_TRIES):
            made = _one(rng, str(kind), changed, tones)
            if made is None:
                continue
            box, film, patch = made
            if any(box.meets(other) for other in boxes):
                continue
            if patch is not None:
                y, x = patch[0]
                changed[y : y + patch[1].shape[0], x : x + patch[1].shape[1]] = patch[1]
            if film is not None:
                films.append(film)
            boxes.append(box)
            break
    return Defective(changed, tuple(films), tuple(boxes))


Patch = tuple[tuple[int, int], Mask]
Made = tuple[Box, Film | None, Patch | None]


def _one(rng: np.random.Generator, kind: str, mask: Mask, tones: tuple[float, float]) -> Made | None:
    if kind in _PATCHES:
        patch = _PATCHES[kind](rng, mask)
        return None if patch is None else _patched(kind, mask, patch)
    film = _FILMS[kind](rng, mask.shape[0] // _SUB, tones)
    box = _enclosing(kind, film.opacity > 0.12, film.x, film.y, mask.shape[0] // _SUB)
    return None if box is None else (box, film, None)


def _patched(kind: str, mask: Mask, patch: Patch) -> Made | None:
    (y, x), new = patch
    differs = new != mask[y : y + new.shape[0], x : x + new.shape[1]]
    if np.count_nonzero(differs) < 36 * _SUB:
        return None
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    left, top = (x + columns[0]) / _SUB, (y + rows[0]) / _SUB
    right, bottom = (x + columns[-1] + 1) / _SUB, (y + rows[-1] + 1) / _SUB
    return _within(kind, left, top, right, bottom, mask.shape[0] // _SUB), None, patch


def _enclosing(kind: str, visible: NDArray[np.bool_], x: int, y: int, size: int) -> Box | None:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if rows.size < 4 or columns.size < 4:
        return None
    return _within(kind, x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1, size)


def _within(kind: str, left: float, top: float, right: float, bottom: float, size: int) -> Box:
    left, top = (max(0.0, float(v) - MARGIN_PX) for v in (left, top))
    right, bottom = (min(float(size), float(v) + MARGIN_PX) for v in (right, bottom))
    return Box(kind, left, top, right - left, bottom - top)


def _run(line: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """First and one-past-last index of the run of equal values around `at`."""
    breaks = np.flatnonzero(line[1:] != line[:-1]) + 1
    slot = int(np.searchsorted(breaks, at, side="right"))
    return (int(breaks[slot - 1]) if slot else 0), (int(breaks[slot]) if slot < breaks.size else line.size)


def _narrow_place(rng: np.random.Generator, mask: Mask, value: int) -> tuple[int, int, int, int, bool] | None:
    """A random place of `value` much longer than wide: (row, column, run start, run end, is the run horizontal), or None."""
    side, border = mask.shape[0], 16
    y, x = (int(v) for v in rng.integers(border, side - border, 2))
    if mask[y, x] != value:
        return None
    across, down = _run(mask[y], x), _run(mask[:, x], y)
    wide, high = across[1] - across[0], down[1] - down[0]
    start, end = across if wide < high else down
    if start == 0 or end == side or not 6 <= end - start <= 110 or max(wide, high) < 1.6 * (end - start):
        return None
    return y, x, start, end, wide < high


def _bridge(rng: np.random.Generator, mask: Mask) -> Patch | None:
    """Conductor across the space between two conductors."""
    place = _narrow_place(rng, mask, 0)
    return None if place is None else _across(rng, mask, place, value=255)


def _open(rng: np.random.Generator, mask: Mask) -> Patch | None:
    """A cut through a line."""
    place = _narrow_place(rng, mask, 255)
    return None if place is None else _across(rng, mask, place, value=0)


def _across(rng: np.random.Generator, mask: Mask, place: tuple[int, int, int, int, bool], *, value: int) -> Patch:
    """Fills the run from edge to edge with `value`, with ragged flanks."""
    y, x, start, end, horizontal = place
    half = max(6.0, (end - start) * float(rng.uniform(0.3, 0.8))) * float(rng.uniform(0.8, 1.2))
    count = max(3, (end - start) // 6)
    along = np.linspace(start - 1, end + 1, count)
    flanks = half * (1 + rng.normal(0, 0.22, (2, count)))
    centre = y if horizontal else x
    upper, lower = np.stack([along, centre - flanks[0]], 1), np.stack([along[::-1], centre + flanks[1]], 1)
    outline = np.concatenate([upper, lower])
    if not horizontal:
        outline = outline[:, ::-1]
    return _filled(mask, outline, value)


def _missing(rng: np.random.Generator, mask: Mask) -> Patch | None:
    """A whole contact, pad or short piece gone; where the pattern is continuous, an area of it."""
    side = mask.shape[0]
    y, x = (int(v) for v in rng.integers(16, side - 16, 2))
    reach = 100
    top, left = max(0, y - reach), max(0, x - reach)
    window = mask[top : y + reach, left : x + reach]
    if mask[y, x] and rng.random() < 0.75:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(window, connectivity=4)
        part = int(labels[y - top, x - left])
        px, py, pw, ph = (int(v) for v in stats[part][:4])
        if count > 1 and px > 0 and py > 0 and px + pw < window.shape[1] and py + ph < window.shape[0]:
            new = window.copy()
            new[labels == part] = 0
            return (top, left), new
    radius = float(rng.uniform(28, 80))
    patch = _filled(mask, _blob(rng, x, y, radius, 0.25), 0)
    (py, px), new = patch
    old = mask[py : py + new.shape[0], px : px + new.shape[1]]
    # an area that holds hardly any pattern, or parts of one line only, would look like nothing or like an open
    return patch if np.count_nonzero(old != new) > 0.25 * 3.1 * radius**2 else None


def _filled(mask: Mask, outline: NDArray[np.float64], value: int) -> Patch:
    low, high = outline.min(axis=0).astype(int) - 2, outline.max(axis=0).astype(int) + 3
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    window = mask[top : max(top, int(high[1])), left : max(left, int(high[0]))].copy()
    cv2.fillPoly(window, [np.round(outline - (left, top)).astype(np.int32)], value)
    return (top, left), window


def _blob(rng: np.random.Generator, x: float, y: float, radius: float, ragged: float) -> NDArray[np.float64]:
    """Outline points [n, 2] (x, y) of a ragged, somewhat elongated blob."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    bumps = sum(rng.normal(0, ragged / n) * np.cos(n * angles + rng.uniform(0, 6.3)) for n in (2, 3, 4, 5))
    radii = radius * np.clip(1 + bumps, 0.4, 1.8)
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)


def _tone_apart(rng: np.random.Generator, tones: tuple[float, float], least: float) -> float:
    """A gray level at least `least` away from both tones where there is one; else the one furthest away."""
    levels = np.arange(0.0, 256.0, 5.0)
    distance = np.minimum(abs(levels - tones[0]), abs(levels - tones[1]))
    fitting = levels[distance >= least]
    return float(rng.choice(fitting)) if fitting.size else float(levels[distance.argmax()])


def _particle(rng: np.random.Generator, size: int, tones: tuple[float, float]) -> Film:
    radius = float(np.exp(rng.uniform(np.log(4.0), np.log(20.0))))
    x, y = rng.uniform(radius + 2, size - radius - 2, 2)
    reach = int(2 * radius) + 4
    left, top = int(x) - reach, int(y) - reach
    canvas = np.zeros((2 * reach, 2 * reach), np.uint8)
    outline = _blob(rng, x - left, y - top, radius, float(rng.uniform(0.05, 0.3)))
    cv2.fillPoly(canvas, [np.round(outline * 2**_FIXED).astype(np.int32)], 255, cv2.LINE_AA, _FIXED)
    opacity = canvas.astype(np.float32) * np.float32(rng.uniform(0.85, 1.0) / 255)
    return Film(left, top, opacity, _tone_apart(rng, tones, 55), float(rng.uniform(-0.35, 0.35)))


def _scratch(rng: np.random.Generator, size: int, tones: tuple[float, float]) -> Film:
    canvas = np.zeros((size, size), np.uint8)
    length, angle = float(np.exp(rng.uniform(np.log(50), np.log(330)))), rng.uniform(0, np.pi)
    heading = np.array([np.cos(angle), np.sin(angle)])
    middle, bend = rng.uniform(0.08, 0.92, 2) * size, rng.normal(0, 0.12) * length
    t = np.linspace(-0.5, 0.5, 24)
    curve = middle + np.outer(t, heading) * length + np.outer(4 * t**2, heading[::-1] * (-1, 1)) * bend
    curve += rng.normal(0, 0.4, curve.shape)
    thickness = int(rng.integers(1, 4))
    skips = rng.random(len(t)) < rng.choice((0.0, 0.0, 0.15))
    for strand in range(int(rng.choice((1, 1, 1, 2, 3)))):
        points = curve + strand * rng.uniform(5, 9) * heading[::-1] * (-1, 1)
        fixed = np.round(points * 2**_FIXED).astype(np.int32)
        for a, b, skip in zip(fixed[:-1], fixed[1:], skips, strict=False):
            if not skip:
                cv2.line(canvas, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 255, thickness, cv2.LINE_AA, _FIXED)
    opacity = canvas.astype(np.float32) * np.float32(rng.uniform(0.8, 1.0) / 255)
    return Film(0, 0, opacity, _tone_apart(rng, tones, 60))


def _residue(rng: np.random.Generator, size: int, tones: tuple[float, float]) -> Film:
    reach = int(np.exp(rng.uniform(np.log(16), np.log(70))))
    x, y = (int(v) for v in rng.integers(0, size, 2))
    cells = int(rng.integers(4, 8))
    noise = cv2.resize(rng.random((cells, cells), np.float32), (2 * reach, 2 * reach), interpolation=cv2.INTER_CUBIC)
    axis = np.linspace(-1, 1, 2 * reach, dtype=np.float32)
    falloff = 1.15 - np.hypot(axis[None] * np.float32(rng.uniform(1, 1.5)), axis[:, None])
    stain = np.clip((falloff + 0.7 * (noise - 0.5) - 0.35) * np.float32(rng.uniform(3, 10)), 0, 1)
    if rng.random() < 0.4:  # dried from the rim inwards
        rim = stain - cv2.erode(stain, np.ones((5, 5), np.uint8))
        stain = np.clip(0.45 * stain + 1.5 * cv2.GaussianBlur(rim, (0, 0), 1.2), 0, 1)
    opacity = (stain * np.float32(rng.uniform(0.45, 0.85))).astype(np.float32)
    return Film(x - reach, y - reach, opacity, _tone_apart(rng, tones, 60))


_PATCHES: dict[str, Callable[[np.random.Generator, Mask], Patch | None]] = {"bridge": _bridge, "open": _open, "missing_pattern": _missing}
_FILMS: dict[str, Callable[[np.random.Generator, int, tuple[float, float]], Film]] = {
    "particle": _particle,
    "scratch": _scratch,
    "residue": _residue,
}
