"""WM-811K wafer maps as a network sees them, and the split that keeps whole lots on one side.

A map has one pixel per die: 0 no die, 1 passed, 2 failed (0, 128, 255 in the PNG files). On the wire it is stretched to
SIDE_PX x SIDE_PX by nearest neighbour, so the levels stay exact; the graph then counts failed dies and dies in 2 x 2 cells.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SIDE_PX = 128
CELLS = SIDE_PX // 2
LEVELS = np.array([0, 128, 255], dtype=np.uint8)
CAP_PER_CLASS = 150
# rare classes sit in few blocks: with this salt the checking side holds close to an eighth of every class
SPLIT_SALT = 122


@dataclass(frozen=True)
class Maps:
    """cells uint8 [n, 2, 64, 64]: failed dies and dies per 2 x 2 cell, 0..4; labels int64 [n]; blocks int64 [n] (source row // 100)."""

    cells: np.ndarray
    labels: np.ndarray
    blocks: np.ndarray
    source: np.ndarray
    classes: list[str]

    def pick(self, rows: np.ndarray) -> Maps:
        return Maps(self.cells[rows], self.labels[rows], self.blocks[rows], self.source[rows], self.classes)


def wire_image(die_map: np.ndarray) -> np.ndarray:
    """uint8 [SIDE_PX, SIDE_PX] from a gray map of any size: what the manifest's preprocess does."""
    return cv2.resize(die_map, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_NEAREST)


def cells_of(wire: np.ndarray) -> np.ndarray:
    """uint8 [2, 64, 64] counts 0..4 from a wire image, by the thresholds that are in the graph."""
    quads = wire.reshape(CELLS, 2, CELLS, 2)
    return np.stack([(quads >= 192).sum(axis=(1, 3)), (quads >= 64).sum(axis=(1, 3))]).astype(np.uint8)


def load_training_maps(archive: Path) -> Maps:
    """All maps of train.npz (pixels flattened one after the other, shapes, labels, source_index, classes)."""
    with np.load(archive) as stored:
        pixels, shapes = LEVELS[stored["pixels"]], stored["shapes"].astype(np.int64)
        labels, source = stored["labels"].astype(np.int64), stored["source_index"].astype(np.int64)
        classes = [str(name) for name in stored["classes"]]
    cells = np.empty((len(labels), 2, CELLS, CELLS), dtype=np.uint8)
    start = 0
    for row, (height, width) in enumerate(shapes):
        end = start + int(height) * int(width)
        cells[row] = cells_of(wire_image(pixels[start:end].reshape(height, width)))
        start = end
    return Maps(cells, labels, source // 100, source, classes)


def split_by_block(maps: Maps, one_in: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (fit, check): about every one_in-th source block checks, at most 150 maps a class; no block is on both sides."""
    checking = np.array([_hash(f"wafer_pattern:{SPLIT_SALT}:block:{block}") % one_in == 0 for block in maps.blocks])
    check: list[int] = []
    for label in range(len(maps.classes)):
        rows = np.flatnonzero(checking & (maps.labels == label))
        ranked = sorted(rows, key=lambda row: _hash(f"wafer_pattern:map:{maps.source[row]}"))
        check.extend(ranked[:CAP_PER_CLASS])
    return np.flatnonzero(~checking), np.array(sorted(check), dtype=np.int64)


def labelled_files(data: Path) -> Iterator[tuple[Path, str]]:
    """(image file, class name) for each row of DIR/labels.csv, the image under DIR/images. FileNotFoundError names what is missing."""
    table = data / "labels.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: --data needs images/ and labels.csv with the columns file,class")
    with table.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            yield data / "images" / row["file"], row["class"]


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
