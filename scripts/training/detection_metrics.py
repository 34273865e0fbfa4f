"""How well a detector did: matching by overlap, average precision per class, mAP, precision, recall and F.

The one place these figures are computed: training, evaluation and the cards all use it. Needs nothing beyond numpy, and no
model. Boxes are x, y, w, h in pixels; a detection is correct when it overlaps an unclaimed true box of its class by more
than the given IoU (the rule of arXiv:1902.06197 with 0.33). Average precision is the area under the precision envelope at
all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Found:
    """Detections of one image: boxes float [n, 4] x, y, w, h; scores float [n] 0..1; labels int [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def at_least(self, threshold: float) -> Found:
        keep = self.scores >= threshold
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep])


@dataclass(frozen=True)
class Truth:
    """True boxes of one image: boxes float [n, 4] x, y, w, h; labels int [n]."""

    boxes: np.ndarray
    labels: np.ndarray


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of a [n, 4] with every box of b [m, 4]: float [n, m]; 0 for empty boxes."""
    a, b = np.asarray(a, dtype=np.float64).reshape(-1, 1, 4), np.asarray(b, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    total = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared
    return np.asarray(np.divide(shared, total, out=np.zeros_like(shared), where=total > 0))


def matched(found: Found, truth: Truth, iou: float) -> np.ndarray:
    """bool [n]: which detections are correct. Best score first, each takes the free true box of its class it overlaps most."""
    correct = np.zeros(len(found.scores), dtype=bool)
    overlaps = iou_matrix(found.boxes, truth.boxes)
    overlaps[np.asarray(found.labels)[:, None] != np.asarray(truth.labels)[None]] = 0
    for row in np.argsort(-found.scores, kind="stable"):
        if overlaps.shape[1] and overlaps[row].max() > iou:
            correct[row] = True
            overlaps[:, overlaps[row].argmax()] = 0
    return correct


def average_precision(scores: np.ndarray, correct: np.ndarray, positives: int) -> float:
    """Area under the precision-recall curve, precision made falling (all-point interpolation); 0.0 without positives."""
    if positives == 0:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(correct[order])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits / positives, prepend=0.0)
    return float((envelope * gained).sum())


def class_precisions(found: Sequence[Found], truth: Sequence[Truth], class_count: int, iou: float) -> list[float | None]:
    """Average precision of each class; None for a class without true boxes."""
    correct = [matched(f, t, iou) for f, t in zip(found, truth, strict=True)]
    flags = np.concatenate([np.zeros(0, bool), *correct])
    scores = np.concatenate([np.zeros(0), *(f.scores for f in found)])
    labels = np.concatenate([np.zeros(0, int), *(f.labels for f in found)])
    counts = np.bincount(np.concatenate([np.zeros(0, int), *(t.labels for t in truth)]).astype(int), minlength=class_count)
    return [average_precision(scores[labels == k], flags[labels == k], int(counts[k])) if counts[k] else None for k in range(class_count)]


def mean_ap(precisions: Sequence[float | None]) -> float:
    """Mean over the classes that occur; 0.0 if none does."""
    present = [value for value in precisions if value is not None]
    return float(np.mean(present)) if present else 0.0


def precision_recall_f(found: Sequence[Found], truth: Sequence[Truth], threshold: float, iou: float) -> tuple[float, float, float]:
    """Over all classes together, of the detections with at least `threshold`; 0.0 where a figure is 0/0."""
    kept = [f.at_least(threshold) for f in found]
    hits = sum(int(matched(f, t, iou).sum()) for f, t in zip(kept, truth, strict=True))
    claimed, actual = sum(len(f.scores) for f in kept), sum(len(t.labels) for t in truth)
    return _ratio(hits, claimed), _ratio(hits, actual), _ratio(2 * hits, claimed + actual)


def best_threshold(found: Sequence[Found], truth: Sequence[Truth], iou: float, at: float = 0.5) -> float:
    """Of the thresholds tried (0.05 to 0.9) whose F is within 0.002 of the best one's: the one `at` this share of the way up."""
    tried = np.round(np.arange(0.05, 0.901, 0.025), 3)
    scores = np.array([precision_recall_f(found, truth, float(t), iou)[2] for t in tried])
    return float(np.quantile(tried[scores >= scores.max() - 0.002], at))


def detection_report(found: Sequence[Found], truth: Sequence[Truth], classes: Sequence[str], threshold: float) -> dict[str, Any]:
    """The JSON-ready figures in percent: map_33, map_50, f, precision, recall (at IoU 0.33 and `threshold`), per_class."""
    loose, strict = (class_precisions(found, truth, len(classes), iou) for iou in (0.33, 0.5))
    precision, recall, f = precision_recall_f(found, truth, threshold, 0.33)
    per_class = {}
    for k, name in enumerate(classes):
        own_found = [Found(x.boxes[x.labels == k], x.scores[x.labels == k], x.labels[x.labels == k]) for x in found]
        own_truth = [Truth(x.boxes[x.labels == k], x.labels[x.labels == k]) for x in truth]
        own = precision_recall_f(own_found, own_truth, threshold, 0.33)
        ap33, ap50 = loose[k], strict[k]
        per_class[name] = {
            "ap_33": None if ap33 is None else _percent(ap33),
            "ap_50": None if ap50 is None else _percent(ap50),
            **dict(zip(("precision", "recall", "f"), map(_percent, own), strict=True)),
            "support": sum(len(x.labels) for x in own_truth),
        }
    return {
        "images": len(truth),
        "map_33": _percent(mean_ap(loose)),
        "map_50": _percent(mean_ap(strict)),
        "f": _percent(f),
        "precision": _percent(precision),
        "recall": _percent(recall),
        "threshold": round(threshold, 4),
        "per_class": per_class,
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
