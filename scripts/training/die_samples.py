"""Where the detector's images come from: made-up dies, or a folder of real pairs. Every sample is a function of (seed, number).

A folder of pairs holds images/, pairs.csv (test, template) and labels.csv (file, x1, y1, x2, y2 in pixels, class_id, class);
template may be empty.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from preparation import read_image

from edged.simulate.dies import CLASSES, Die, make_die

SIDE_PX = 640
REFERENCE_DROPOUT = 0.35
HELD_OUT_SEED, TUNING_SEED = 990_000, 980_000  # training draws from (seed, number) and meets neither
HELD_OUT_IMAGES = 200
TUNING_IMAGES = 120
FRESH, LEAST_SHOWN, MOST_SHOWN = 0.35, 48, 300
ASTRAY_PX = 4
VISIBLE = 0.5  # a box cut by the crop's border counts as long as this share of it is left


@dataclass(frozen=True)
class Sample:
    """pair uint8 [2, h, w] (image, reference or zeros); boxes float [n, 4] x1, y1, x2, y2; labels int [n], -1: look away."""

    pair: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    name: str = ""


class Source(Protocol):
    classes: Sequence[str]
    shapes: Sequence[tuple[int, int]]  # crops a step and their side in px, in turn

    def crop(self, number: int, size: int) -> Sample:
        """The training crop with this number, size x size px."""
        ...


class GeneratedDies:
    """Made-up dies. Drawing one costs as much as learning from it, so each is shown about three times, turned, with or without its
    reference. The same numbers in the same order give the same crops.
    """

    classes = CLASSES
    shapes = ((6, 256), (6, 256), (6, 256), (2, 448))  # large ones for what is long

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._shown: dict[int, list[Die]] = {}

    def crop(self, number: int, size: int) -> Sample:
        rng = np.random.default_rng((self._seed, number))
        shown = self._shown.setdefault(size, [])
        if len(shown) < LEAST_SHOWN or rng.random() < FRESH:
            shown.append(make_die(rng, size, int(rng.integers(0, 8))))
            del shown[:-MOST_SHOWN]
            die = shown[-1]
        else:
            die = shown[int(rng.integers(len(shown)))]
        return _turned(_sample(rng, die, dropout=REFERENCE_DROPOUT, jpeg=rng.random() < 0.3), int(rng.integers(8)))


def held_out_dies(count: int = HELD_OUT_IMAGES) -> list[Sample]:
    """Whole images with seeds of their own and references, stored and read back as JPEG like a camera's."""
    return [_generated(np.random.default_rng(HELD_OUT_SEED + n), dropout=0.0, name=f"generated_{n:03d}.jpg") for n in range(count)]


def tuning_dies(count: int = TUNING_IMAGES) -> list[Sample]:
    """Whole images for choosing the threshold, as many without reference as in training."""
    rows = (np.random.default_rng(TUNING_SEED + n) for n in range(count))
    return [_generated(rng, dropout=REFERENCE_DROPOUT, name=f"tuning_{n:03d}.jpg") for n, rng in enumerate(rows)]


def _generated(rng: np.random.Generator, *, dropout: float, name: str) -> Sample:
    return _sample(rng, make_die(rng, SIDE_PX), dropout=dropout, jpeg=True, name=name)


def _sample(rng: np.random.Generator, die: Die, *, dropout: float, jpeg: bool, name: str = "") -> Sample:
    alone = rng.random() < dropout
    images = [die.image, np.zeros_like(die.image) if alone else die.reference]
    if jpeg:
        quality = int(rng.integers(75, 98))
        images = [_through_jpeg(image, quality) if image.any() else image for image in images]
    boxes = np.array([(b.x, b.y, b.x + b.w, b.y + b.h) for b in die.boxes], dtype=np.float32).reshape(-1, 4)
    return Sample(np.stack(images), boxes, np.array([CLASSES.index(b.kind) for b in die.boxes], dtype=np.int64), name)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


class BoardPairs:
    """Crops of real pairs, turned, mirrored, with patches and further defects of other pairs and some defects taken out again."""

    shapes = ((6, 256),)

    def __init__(self, pairs: Sequence[Sample], classes: Sequence[str], seed: int) -> None:
        self.classes = classes
        self._pairs, self._seed = pairs, seed
        self._defects = [(pair, row) for pair in pairs for row in range(len(pair.labels))]

    def crop(self, number: int, size: int) -> Sample:
        rng = np.random.default_rng((self._seed, number))
        here = self._cut(rng, size)
        if rng.random() < 0.4:
            here = _patched(rng, here, self._cut(rng, size))
        here = _mended(rng, here)
        for _ in range(int(rng.integers(0, 6))):
            here = self._with_another(rng, here)
        return _turned(here, int(rng.integers(8)))

    def _with_another(self, rng: np.random.Generator, here: Sample) -> Sample:
        """Lays a defect and what is around it, image and reference together, where no other defect is."""
        whole, row = self._defects[int(rng.integers(len(self._defects)))]
        size = here.pair.shape[1]
        margin = rng.integers(6, 28, 4)
        limits = np.array(whole.pair.shape[:0:-1])
        low = np.maximum(whole.boxes[row, :2].astype(int) - margin[:2], 0)
        high = np.minimum(whole.boxes[row, 2:].astype(int) + margin[2:], limits)
        w, h = (int(v) for v in high - low)
        if max(w, h) >= size:
            return here
        inside = _clipped(Sample(whole.pair, whole.boxes, whole.labels), (int(low[0]), int(low[1]), int(high[0]), int(high[1])))
        piece = Sample(whole.pair[:, low[1] : high[1], low[0] : high[0]], inside.boxes - np.tile(low, 2).astype(np.float32), inside.labels)
        piece = _turned(piece, int(rng.integers(4)))
        x, y = int(rng.integers(size - w + 1)), int(rng.integers(size - h + 1))
        apart = (here.boxes[:, 0] >= x + w) | (here.boxes[:, 2] <= x) | (here.boxes[:, 1] >= y + h) | (here.boxes[:, 3] <= y)
        if not apart.all():
            return here
        pair = here.pair.copy()
        pair[:, y : y + h, x : x + w] = piece.pair
        moved = piece.boxes + np.float32([x, y, x, y])
        return Sample(pair, np.concatenate([here.boxes, moved]), np.concatenate([here.labels, piece.labels]))

    def _cut(self, rng: np.random.Generator, size: int) -> Sample:
        """A crop, sometimes scaled a little, its reference sometimes displaced: real pairs are not all aligned to the pixel."""
        whole = self._pairs[int(rng.integers(len(self._pairs)))]
        high, wide = whole.pair.shape[1:]
        cut = int(size * rng.uniform(0.85, 1.2)) if rng.random() < 0.3 else size
        x, y = int(rng.integers(wide - cut + 1)), int(rng.integers(high - cut + 1))
        off = rng.integers(-ASTRAY_PX, ASTRAY_PX + 1, 2) if rng.random() < 0.5 else np.zeros(2, int)
        rx, ry = int(np.clip(x + off[0], 0, wide - cut)), int(np.clip(y + off[1], 0, high - cut))
        sides = [whole.pair[0, y : y + cut, x : x + cut], whole.pair[1, ry : ry + cut, rx : rx + cut]]
        if cut != size:
            sides = [np.asarray(cv2.resize(side, (size, size), interpolation=cv2.INTER_LINEAR)) for side in sides]
        boxes = (whole.boxes - np.float32([x, y, x, y])) * np.float32(size / cut)
        return _clipped(Sample(np.stack(sides), boxes, whole.labels), (0, 0, size, size))


def _clipped(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """The boxes inside window (x1, y1, x2, y2); too small a rest of one is marked as "look away"."""
    x1, y1, x2, y2 = window
    inside = sample.boxes.clip([x1, y1, x1, y1], [x2, y2, x2, y2])
    left = _area(inside) / np.maximum(_area(sample.boxes), 1e-6)
    keep = left > 0.02
    labels = np.where(left >= VISIBLE, sample.labels, -1)  # what was looked away from stays so
    return Sample(sample.pair, inside[keep].astype(np.float32), labels[keep])


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _patched(rng: np.random.Generator, here: Sample, there: Sample) -> Sample:
    """Lays a rectangle of another pair, image and reference together, over this one; defects cut in two are looked away from."""
    size = here.pair.shape[1]
    w, h = (int(rng.integers(size // 4, size * 2 // 3)) for _ in range(2))
    x, y = int(rng.integers(size - w + 1)), int(rng.integers(size - h + 1))
    pair = here.pair.copy()
    pair[:, y : y + h, x : x + w] = there.pair[:, y : y + h, x : x + w]
    window = (x, y, x + w, y + h)
    brought = _clipped(there, window)
    under = _area(here.boxes.clip([x, y, x, y], [x + w, y + h, x + w, y + h])) / np.maximum(_area(here.boxes), 1e-6)
    seen = under < 0.98
    labels = np.where(under > 0, -1, here.labels)[seen]
    return Sample(pair, np.concatenate([here.boxes[seen], brought.boxes]), np.concatenate([labels, brought.labels]))


def _mended(rng: np.random.Generator, sample: Sample) -> Sample:
    """Replaces some defects by what the reference shows there: no defect is left, and the place must not be found."""
    pair, keep = sample.pair.copy(), np.ones(len(sample.labels), dtype=bool)
    for row, box in enumerate(sample.boxes):
        if rng.random() < 0.1 and sample.labels[row] >= 0:
            x1, y1, x2, y2 = (int(v) for v in box + np.float32([-2, -2, 3, 3]))
            where = (slice(max(0, y1), y2), slice(max(0, x1), x2))
            pair[0][where] = pair[1][where]
            keep[row] = False
    return Sample(pair, sample.boxes[keep], sample.labels[keep])


def _turned(sample: Sample, way: int) -> Sample:
    """One of the eight turns and mirrorings of a square; 0 to 3 keep width and height."""
    pair, boxes = sample.pair, sample.boxes
    high, wide = pair.shape[1:]
    if way & 1:
        pair, boxes = pair[:, :, ::-1], np.stack([wide - boxes[:, 2], boxes[:, 1], wide - boxes[:, 0], boxes[:, 3]], 1)
    if way & 2:
        pair, boxes = pair[:, ::-1], np.stack([boxes[:, 0], high - boxes[:, 3], boxes[:, 2], high - boxes[:, 1]], 1)
    if way & 4:
        pair, boxes = pair.transpose(0, 2, 1), boxes[:, [1, 0, 3, 2]]
    return Sample(np.ascontiguousarray(pair), boxes, sample.labels)


def read_pairs(data: Path) -> tuple[list[Sample], list[str]]:
    """All pairs of a folder, and the class names by class_id. ValueError names a file or column that does not fit."""
    boxes: dict[str, list[tuple[float, ...]]] = {}
    names: dict[int, str] = {}
    try:
        with (data / "labels.csv").open(newline="", encoding="utf-8") as rows:
            for row in csv.DictReader(rows):
                names[int(row["class_id"])] = row["class"]
                boxes.setdefault(row["file"], []).append((*(float(row[k]) for k in ("x1", "y1", "x2", "y2")), int(row["class_id"])))
        with (data / "pairs.csv").open(newline="", encoding="utf-8") as rows:
            files = [(row["test"], row["template"]) for row in csv.DictReader(rows)]
    except KeyError as missing:
        raise ValueError(f"{data} has no column {missing} in labels.csv or pairs.csv") from None
    order = sorted(names)
    samples = []
    for test, template in files:
        found = np.array(boxes.get(test, []), dtype=np.float32).reshape(-1, 5)
        image = read_image(data / "images" / test)
        pair = np.stack([image, read_image(data / "images" / template) if template else np.zeros_like(image)])
        samples.append(Sample(pair, found[:, :4], np.array([order.index(int(k)) for k in found[:, 4]], dtype=np.int64), test))
    return samples, [names[k] for k in order]
