"""One JSON line per judged image, as `edged infer --json` prints it: made by the product's own verdict room and message builder.

A detector's weak boxes are listed too (`FLOOR`), since who measures it wants them; the verdict is by the default rules all the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.config import Decode, Recipe, Rules, Station
from edged.nouns import (
    Geometry,
    Identity,
    ImageFacts,
    Landing,
    ModelContract,
    ModelFacts,
    ModelOutputs,
    PageResult,
)
from edged.plant.messages import Messages
from edged.verdict import judge
from edged.vision.headers import Limits, inspect

FLOOR = 0.02


def classification_line(file: Path, manifest: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """The line for a classifier's scores {class: 0..1}."""
    return _line(file.name, file.read_bytes(), manifest, {"scores": np.array([scores[name] for name in manifest["classes"]], np.float32)})


def detection_line(name: str, image: NDArray[Any], manifest: Mapping[str, Any], found: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """The line for a detector's (class, score 0..1, box x y w h in image pixels) on `image`, which need not come from a file."""
    classes = list(manifest["classes"])
    return _line(
        name,
        bytes(cv2.imencode(".png", image)[1]),
        manifest,
        {
            "boxes": np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
            "scores": np.array([score for _, score, _ in found], np.float32),
            "labels": np.array([classes.index(name) for name, _, _ in found], np.int32),
        },
    )


def _line(file: str, data: bytes, manifest: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """`outputs` by role, boxes in image pixels."""
    limits = Decode()
    header = inspect(data, Limits(limits.max_file_bytes, limits.max_pixels, limits.max_side_px, limits.max_pages))
    page = header.pages[0]
    image = ImageFacts(
        hashlib.sha256(data).hexdigest(),
        len(data),
        header.media_type,
        width=page.width,
        height=page.height,
        bits=page.bits,
        channels=page.channels,
    )
    name, version = str(manifest["name"]), str(manifest["version"])
    recipe = Recipe(name=name, models=(name,), rules=Rules(min_confidence=FLOOR) if manifest["kind"] == "detection" else Rules())
    facts = ModelFacts(name, version, str(manifest["files"][manifest["model"]]))
    contract = ModelContract(
        name,
        version,
        facts.sha256,
        str(manifest["kind"]),
        tuple(manifest["classes"]),
        manifest.get("background"),
        {role: role for role in outputs},
    )
    geometry = Geometry(1.0, 1.0, 0.0, 0.0, (0.0, 0.0, float(page.width), float(page.height)))
    verdict = judge(
        recipe,
        [contract],
        [ModelOutputs(facts, (outputs,), (geometry,), 0.0, 0.0)],
        width=page.width,
        height=page.height,
        frame=None,
        complete=True,
        quality=None,
        recipe_known=True,
    )
    now = datetime.now(UTC)
    landing = Landing("evaluate", ".", file.encode(), len(data), 0, 0, Identity(), name, now, 0.0, time.monotonic())
    result = PageResult(landing, image, verdict, None, None, (), {}, now)
    return json.dumps({"file": file, **_messages().data_of(result)}, separators=(",", ":"))


@lru_cache(maxsize=1)
def _messages() -> Messages:
    return Messages(Station(), "evaluate", {})
