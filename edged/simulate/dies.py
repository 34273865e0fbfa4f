"""Images of made-up dies: a layout seen through a microscope, with defects, and the golden reference that belongs to it.

Pure: everything comes from the numpy Generator that is passed in, so a seed stands for an image. A 640 x 640 pair costs about
25 ms on one core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.simulate.defects import CLASSES, Box, Film, Floats, add_defects
from edged.simulate.layouts import SUPERSAMPLING, Mask, draw_layout

__all__ = ["CLASSES", "Box", "Die", "make_die"]

Image = NDArray[np.uint8]
LEAST_CONTRAST = 55.0  # gray levels between substrate and conductor


@dataclass(frozen=True, slots=True)
class Die:
    """image and reference: uint8 [size, size] gray; boxes: what is wrong with image, in its pixels."""

    image: Image
    reference: Image
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """How the station sees a die. Tones are gray levels, blur and shift pixels, noise a standard deviation in gray levels."""

    substrate: float
    conductor: float
    rim: float  # brightness of pattern edges, as an electron microscope shows them
    blur: float
    light: float  # unevenness of the illumination, 0..1
    noise: float
    grain: float
    below: Floats | None  # a deeper layer shining through, -1..1
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0  # degrees


def make_die(rng: np.random.Generator, size: int = 640, defects: int | None = None) -> Die:
    """A die image of size x size px with `defects` defects (None: 0 to 7 of them, a fifth of the dies clean).

    The reference shows the same layout without defects, slightly displaced, with light and noise of its own.
    A crowded layout may hold fewer defects than asked for; `boxes` tells.
    """
    layout = draw_layout(rng, size)
    look = _look(rng, size, tells=layout.tells)
    if defects is None:
        defects = int(rng.choice(8, p=(0.2, 0.2, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)))
    defective = add_defects(rng, layout.mask, defects, (look.substrate, look.conductor))
    fresh = replace(
        look,
        blur=look.blur * float(rng.uniform(0.9, 1.1)),
        noise=look.noise * float(rng.uniform(0.3, 1.0)),
        substrate=look.substrate + float(rng.normal(0, 4)),
        conductor=look.conductor + float(rng.normal(0, 4)),
        shift=(float(rng.normal(0, 0.7)), float(rng.normal(0, 0.7))),
        turn=float(rng.normal(0, 0.08)),
    )
    image = _render(rng, defective.mask, look, defective.films)
    return Die(image, _render(rng, layout.mask, fresh, ()), defective.boxes)


def _look(rng: np.random.Generator, size: int, *, tells: bool) -> _Look:
    """Where the layout does not tell which part is conductor, that is the brighter one; else either may be."""
    dark_conductor = tells and rng.random() < 0.4
    if rng.random() < 0.1:  # a station that hands on binarised images
        low, high = (255.0, 0.0) if dark_conductor else (0.0, 255.0)
        return _Look(low, high, rim=0, blur=0.5, light=0, noise=float(rng.uniform(0, 4)), grain=0, below=None)
    while True:
        substrate, conductor = sorted(rng.uniform(15, 240, 2), reverse=bool(dark_conductor))
        if abs(substrate - conductor) >= LEAST_CONTRAST:
            break
    return _Look(
        substrate=float(substrate),
        conductor=float(conductor),
        rim=float(rng.uniform(20, 90)) if rng.random() < 0.35 else 0.0,
        blur=float(np.exp(rng.uniform(np.log(0.5), np.log(1.4)))),
        light=float(rng.uniform(0, 0.2)),
        noise=float(np.exp(rng.uniform(np.log(1.0), np.log(7.0)))),
        grain=float(rng.uniform(4, 14)) if rng.random() < 0.3 else 0.0,
        below=_below(rng, size) * np.float32(rng.uniform(6, 0.25 * abs(substrate - conductor))) if rng.random() < 0.3 else None,
    )


def _below(rng: np.random.Generator, size: int) -> Floats:
    deeper = cv2.resize(draw_layout(rng, size).mask, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.GaussianBlur(deeper / np.float32(127.5) - 1, (0, 0), 2.0).astype(np.float32)


def _render(rng: np.random.Generator, mask: Mask, look: _Look, films: tuple[Film, ...]) -> Image:
    size = mask.shape[0] // SUPERSAMPLING
    cover = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    share = cover.astype(np.float32) * np.float32(1 / 255)
    scene = np.float32(look.substrate) + np.float32(look.conductor - look.substrate) * share
    if look.below is not None:
        scene += look.below * (1 - share)
    if look.rim:
        rim = cv2.morphologyEx(cover, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        scene += rim.astype(np.float32) * np.float32(look.rim / 255)
    if look.grain:
        scene += share * np.float32(look.grain) * _smooth(rng, size, size // 6)
    for film in films:
        _lay(scene, film)
    scene = np.asarray(cv2.GaussianBlur(scene, (0, 0), look.blur), np.float32)
    if look.turn or any(look.shift):
        moved = np.asarray(cv2.getRotationMatrix2D((size / 2, size / 2), look.turn, 1.0), np.float64)
        moved[:, 2] += np.asarray(look.shift)
        warped = cv2.warpAffine(scene, moved, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        scene = np.asarray(warped, np.float32)
    if look.light:
        scene *= 1 + np.float32(look.light) * _smooth(rng, size, 3)
    scene += rng.standard_normal((size, size), np.float32) * np.float32(look.noise)
    return np.asarray(np.clip(scene, 0, 255), np.uint8)


def _smooth(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """A field of about -1..1, float32 [size, size], that varies over size / cells pixels."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def _lay(scene: Floats, film: Film) -> None:
    """Covers the part of the scene where the film lies; what is outside the image is lost."""
    size, (high, wide) = scene.shape[0], film.opacity.shape
    top, left = max(0, -film.y), max(0, -film.x)
    bottom, right = min(high, size - film.y), min(wide, size - film.x)
    if top >= bottom or left >= right:
        return
    part = film.opacity[top:bottom, left:right]
    under = scene[film.y + top : film.y + bottom, film.x + left : film.x + right]
    slope = np.linspace(-1, 1, high, dtype=np.float32)[top:bottom, None]
    under += part * (np.float32(film.tone) * (1 + np.float32(film.relief) * slope) - under)
