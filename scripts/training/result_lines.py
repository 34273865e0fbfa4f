"""One JSON line per judged image, as `edged infer --json` prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def classification_line(file: str, manifest: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """The line for a classifier's scores {class: 0..1}: FAIL with one defect unless the best class is the background class."""
    best = max(scores, key=lambda name: scores[name])
    defects = [] if best == manifest["background"] else [{"n": 1, "class": best, "confidence": round(scores[best], 4)}]
    line = {
        "file": file,
        "verdict": "FAIL" if defects else "PASS",
        "models": [
            {
                "name": manifest["name"],
                "version": manifest["version"],
                "scores": {name: round(value, 4) for name, value in scores.items()},
            }
        ],
        "defects": defects,
    }
    return json.dumps(line, separators=(",", ":"))


def detection_line(file: str, manifest: Mapping[str, Any], found: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """The line for a detector's (class, score 0..1, box x y w h in image pixels), best first: FAIL if there is any."""
    defects = [
        {"n": n, "class": name, "confidence": round(score, 4), "box_px": [round(v, 1) for v in box]}
        for n, (name, score, box) in enumerate(found, 1)
    ]
    best: dict[str, float] = dict.fromkeys(manifest["classes"], 0.0)
    for name, score, _ in found:
        best[name] = max(best[name], round(score, 4))
    line = {
        "file": file,
        "verdict": "FAIL" if defects else "PASS",
        "models": [{"name": manifest["name"], "version": manifest["version"], "scores": best}],
        "defects": defects,
    }
    return json.dumps(line, separators=(",", ":"))
