"""Reads and prepares one image for a model as its manifest's `preprocess` says: what the trained models need, nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def read_image(file: Path) -> np.ndarray:
    """uint8 [height, width], gray. FileNotFoundError or ValueError names the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, but labels.csv lists it")
    image = cv2.imdecode(np.frombuffer(file.read_bytes(), dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"{file} is no image that OpenCV can decode")
    return np.asarray(image)


def prepared(gray: np.ndarray, preprocess: Mapping[str, Any]) -> np.ndarray:
    """uint8 [1, height_px, width_px]. ValueError for a step that only the daemon knows."""
    if preprocess.get("colour") != "gray" or preprocess.get("fit") != "stretch":
        raise ValueError(f"only colour=gray with fit=stretch is prepared here, not {dict(preprocess)}")
    width, height = int(preprocess["width_px"]), int(preprocess["height_px"])
    kind = str(preprocess["interpolation"])
    if kind == "area" and (width > gray.shape[1] or height > gray.shape[0]):
        kind = "linear"
    flags = {"nearest": cv2.INTER_NEAREST, "area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
    return np.asarray(cv2.resize(gray, (width, height), interpolation=flags[kind]))[None]
