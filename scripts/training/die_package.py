"""What the package of die_defect says about itself: manifest, golden dies, what it finds, card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from detection_metrics import Found, Truth
from die_net import TOP_K
from die_samples import SIDE_PX, Sample
from package import GoldenImage, write_golden
from preparation import prepared, read_image

LISTED_FROM = 0.5
CITATIONS = [
    (
        'Method checked on: S. Tang, F. He, X. Huang and J. Yang, "Online PCB Defect Detector On A New PCB Defect Dataset," '
        "arXiv:1902.06197, 2019."
    ),
]
LICENCE_FILE = Path(__file__).with_name("die_golden_licence.txt")


def manifest_of(classes: Sequence[str]) -> dict[str, Any]:
    """The manifest without its `files`."""
    return {
        "schema": "urn:edged:schema:model-manifest:1.0",
        "name": "die_defect",
        "version": "1",
        "kind": "detection",
        "model": "1/model.onnx",
        "licence": "Apache-2.0",
        "citations": CITATIONS,
        "classes": list(classes),
        "background": None,
        "max_batch_size": 8,
        "inputs": [{"name": "image", "dtype": "UINT8", "dims": [2, SIDE_PX, SIDE_PX], "channels": ["gray", "reference"]}],
        "outputs": [
            {"name": "boxes", "dtype": "FP32", "dims": [TOP_K, 4], "role": "boxes"},
            {"name": "scores", "dtype": "FP32", "dims": [TOP_K], "role": "scores"},
            {"name": "labels", "dtype": "INT32", "dims": [TOP_K], "role": "labels"},
        ],
        "preprocess": {"colour": "gray", "fit": "stretch", "width_px": SIDE_PX, "height_px": SIDE_PX, "interpolation": "area"},
        "tolerance": {"score": 0.02, "box_px": 2.0},
    }


@dataclass
class Clock:
    """Seconds spent in the network, over how many images."""

    seconds: float = 0.0
    images: int = 0


def find(session: onnxruntime.InferenceSession, pair: np.ndarray, clock: Clock | None = None) -> Found:
    """What the served network finds in one uint8 [2, 640, 640]; rows of score 0 left out."""
    began = time.perf_counter()
    boxes, scores, labels = (row[0] for row in session.run(["boxes", "scores", "labels"], {"image": pair[None]}))
    if clock is not None:
        clock.seconds, clock.images = clock.seconds + time.perf_counter() - began, clock.images + 1
    used = scores > 0
    return Found(boxes[used], scores[used], labels[used])


def truth_of(sample: Sample) -> Truth:
    low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
    return Truth(np.concatenate([low, high - low], 1), sample.labels)


def expect_defects(session: onnxruntime.InferenceSession, golden: GoldenImage, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """`defects` of a golden image, boxes in its own pixels."""
    image = read_image(golden.image)
    frame = prepared(image, manifest["preprocess"])
    other = np.zeros_like(frame) if golden.reference is None else prepared(read_image(golden.reference), manifest["preprocess"])
    found = find(session, np.concatenate([frame, other])).at_least(LISTED_FROM)
    scale = np.array([image.shape[1], image.shape[0]] * 2) / SIDE_PX
    return {
        "defects": [
            {
                "class": manifest["classes"][int(label)],
                "confidence": round(float(score), 5),
                "box_px": [round(float(v), 2) for v in box * scale],
            }
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ]
    }


def add_golden(out: Path, manifest: Mapping[str, Any], samples: Sequence[Sample], licence: Path, scratch: Path) -> None:
    """Golden images of `samples`, with their references where these are not all zeros, written as PNG by way of the folder `scratch`."""
    images = []
    for sample in samples:
        name = Path(sample.name).stem
        image, reference = scratch / f"{name}.png", scratch / f"{name}_temp.png"
        cv2.imwrite(str(image), sample.pair[0])
        if sample.pair[1].any():
            cv2.imwrite(str(reference), sample.pair[1])
        images.append(GoldenImage(image, reference if sample.pair[1].any() else None))
    write_golden(out, dict(manifest), images, licence, partial(expect_defects, manifest=manifest))


def card_text(template: Path, facts: Mapping[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The card: `template` with {facts} filled in; {figures} becomes a table with one column pair for each of the titled `reports`."""
    first = next(iter(reports.values()))
    rows = ["| class |" + "".join(f" {title}: AP@0.33 | AP@0.5 | F | boxes |" for title in reports), "|---|" + "---|" * 4 * len(reports)]
    for name in first["per_class"]:
        cells = (r["per_class"][name] for r in reports.values())
        rows.append(f"| {name} |" + "".join(f" {c['ap_33']} | {c['ap_50']} | {c['f']} | {c['support']} |" for c in cells))
    rows.append("| **all** |" + "".join(f" **{r['map_33']}** | **{r['map_50']}** | **{r['f']}** | |" for r in reports.values()))
    text = template.read_text(encoding="utf-8")
    for key, value in {**facts, "figures": "\n".join(rows)}.items():
        text = text.replace("{" + key + "}", str(value))
    return text
