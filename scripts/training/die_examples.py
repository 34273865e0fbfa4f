"""Writes the die images that the tests and the demonstration use: python scripts/training/die_examples.py tests/data/dies

Made up by edged/simulate, so that they can be shipped: JPEG mostly, a few PNG, BMP and TIFF; about half with a golden reference.
The folder has the layout that `scripts/evaluate die_defect --data` reads.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from die_package import LICENCE_FILE
from die_samples import CLASSES, SIDE_PX

from edged.simulate.dies import Die, make_die

SEED = 970_000
IMAGES = 24
KINDS = {3: "png", 9: "png", 15: "bmp", 17: "tif", 21: "tiff"}  # by number; the others are JPEG
LARGEST_JPEG = 68_000  # bytes: noisy images would make the repository large

_OPTIONS = {
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 9],
    ".bmp": [],
    ".tif": [cv2.IMWRITE_TIFF_COMPRESSION, 5],  # LZW
    ".tiff": [cv2.IMWRITE_TIFF_COMPRESSION, 1],  # none
}


def main(out: Path) -> None:
    images = out / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    shutil.copyfile(LICENCE_FILE, out / "LICENSE.txt")
    pairs, labels = [], []
    for number, die in enumerate(_dies()):
        wafer, x, y = 1 + number // 8, number % 5 - 2, number % 7 - 3
        stem, kind = f"L2411A_{wafer:02d}_{x}_{y}_{1 + number % 3}", KINDS.get(number, "jpg")
        _write(images / f"{stem}.{kind}", die.image)
        template = f"{stem}_temp.{kind}" if number % 2 == 0 else ""
        if template:
            _write(images / template, die.reference)
        pairs.append({"test": f"{stem}.{kind}", "template": template, "n_defects": len(die.boxes)})
        for box in die.boxes:
            corners = {"x1": box.x, "y1": box.y, "x2": box.x + box.w, "y2": box.y + box.h}
            labels.append({"file": f"{stem}.{kind}", **corners, "class_id": CLASSES.index(box.kind) + 1, "class": box.kind})
    for name, rows in (("pairs.csv", pairs), ("labels.csv", labels)):
        with (out / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _dies() -> list[Die]:
    dies: list[Die] = []
    seed = SEED
    while len(dies) < IMAGES:
        seed += 1
        die = make_die(np.random.default_rng(seed), SIDE_PX, defects=len(dies) % 6)
        small = LARGEST_JPEG // 2 if len(dies) in KINDS else LARGEST_JPEG
        if len(die.boxes) == len(dies) % 6 and len(cv2.imencode(".jpg", die.image, _OPTIONS[".jpg"])[1]) < small:
            dies.append(die)
    return dies


def _write(file: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(file), image, _OPTIONS[file.suffix]):
        raise OSError(f"{file} could not be written: is there space and permission?")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
