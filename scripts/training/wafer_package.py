"""What the package of wafer_pattern says about itself: manifest, golden wafer maps, card."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from package import GoldenImage, open_session
from preparation import prepared, read_image
from wafer_maps import SIDE_PX

CITATIONS = [
    (
        'M.-J. Wu, J.-S. R. Jang and J.-L. Chen, "Wafer Map Failure Pattern Recognition and Similarity Ranking for Large-Scale Data Sets," '
        "IEEE Transactions on Semiconductor Manufacturing, vol. 28, no. 1, pp. 1-12, Feb. 2015, doi: 10.1109/TSM.2014.2364237."
    ),
    "MIR-WM811K: Dataset for wafer map failure pattern recognition, 2015, http://mirlab.org/dataset/public/",
]
GOLDEN_SCORE = 0.7


def manifest_of(classes: list[str]) -> dict[str, Any]:
    """The manifest without its `files`."""
    return {
        "schema": "urn:edged:schema:model-manifest:1.0",
        "name": "wafer_pattern",
        "version": "1",
        "kind": "classification",
        "model": "1/model.onnx",
        "licence": "Apache-2.0",
        "citations": CITATIONS,
        "classes": classes,
        "background": "None",
        "max_batch_size": 16,
        "inputs": [{"name": "image", "dtype": "UINT8", "dims": [1, SIDE_PX, SIDE_PX], "channels": ["gray"]}],
        "outputs": [{"name": "scores", "dtype": "FP32", "dims": [len(classes)], "role": "scores"}],
        "preprocess": {"colour": "gray", "fit": "stretch", "width_px": SIDE_PX, "height_px": SIDE_PX, "interpolation": "nearest"},
        "tolerance": {"score": 0.02, "box_px": 2.0},
    }


def scores_of(session: onnxruntime.InferenceSession, file: Path, manifest: Mapping[str, Any]) -> dict[str, float]:
    """{class: score 0..1} of one image file."""
    tensor = prepared(read_image(file), manifest["preprocess"])
    scores = session.run(["scores"], {"image": tensor[None]})[0][0]
    return {name: float(score) for name, score in zip(manifest["classes"], scores, strict=True)}


def expect_scores(session: onnxruntime.InferenceSession, golden: GoldenImage, manifest: Mapping[str, Any]) -> dict[str, Any]:
    scores = scores_of(session, golden.image, manifest)
    return {"scores": {name: round(score, 5) for name, score in scores.items()}}


def golden_maps(out: Path, data: Path, manifest: Mapping[str, Any]) -> list[GoldenImage]:
    """The first labelled map of each class that the model is right and fairly sure about."""
    session = open_session(out / manifest["model"])
    found: dict[str, GoldenImage] = {}
    with (data / "labels.csv").open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            file = data / "images" / row["file"]
            if row["class"] not in found and scores_of(session, file, manifest)[row["class"]] >= GOLDEN_SCORE:
                found[row["class"]] = GoldenImage(file)
    return [found[name] for name in manifest["classes"] if name in found]


def card_text(manifest: Mapping[str, Any], facts: Mapping[str, Any], own: Mapping[str, Any], images: Mapping[str, Any] | None) -> str:
    """card.md. `facts`: what the run was (seed, epochs, maps, cpu_minutes, command, parameters, bytes); `own`, `images`: two reports."""
    reports = [("own split", own)] + ([("images/", images)] if images else [])
    heads = "".join(f" {title} F1 (maps) |" for title, _ in reports)
    rows = [f"| class |{heads}", "|---|" + "---|" * len(reports)]
    for name in manifest["classes"]:
        cells = (f"{r['per_class'][name]['f1']:.3f} ({r['per_class'][name]['support']})" for _, r in reports)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    rows.append("| **macro-F1** | " + " | ".join(f"**{r['macro_f1']:.4f}** ({r['images']})" for _, r in reports) + " |")
    rows.append("| accuracy | " + " | ".join(f"{r['accuracy']:.4f}" for _, r in reports) + " |")
    last = reports[-1][1]
    matrix = "\n".join(
        f"{name:<10}" + "".join(f"{n:>5}" for n in row) for name, row in zip(manifest["classes"], last["confusion"], strict=True)
    )
    text = (Path(__file__).with_name("wafer_pattern_card.md")).read_text(encoding="utf-8")
    filled = {
        **facts, "classes": ", ".join(manifest["classes"]), "figures": "\n".join(rows), "matrix": matrix, "matrix_of": reports[-1][0],
        "citations": "\n".join(f"[{n}] {text}" for n, text in enumerate(manifest["citations"], 1)), "side": SIDE_PX,
    }  # fmt: skip
    for key, value in filled.items():
        text = text.replace("{" + key + "}", str(value))
    return text


def parameter_count(state: Mapping[str, Any]) -> int:
    return int(sum(np.prod(value.shape) for name, value in state.items() if "running" not in name and "num_batches" not in name))
