"""How well a classifier did: confusion, precision, recall and F1 per class, macro-F1, accuracy.

The one place these figures are computed: training, evaluation and the cards all use it. Needs nothing beyond numpy,
and no model. Rows of a confusion matrix are the truth, columns the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassScore:
    """precision, recall and f1 are 0..1 and 0.0 where they are 0/0; support counts the true images of the class."""

    precision: float
    recall: float
    f1: float
    support: int


def confusion_matrix(truth: Sequence[int], predicted: Sequence[int], class_count: int) -> np.ndarray:
    """int64 [class_count, class_count], row = truth, column = prediction. ValueError for unequal lengths or a class out of range."""
    rows, columns = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if rows.shape != columns.shape or rows.ndim != 1:
        raise ValueError(f"{rows.size} true classes against {columns.size} predicted ones: give one prediction per image")
    for name, values in (("true", rows), ("predicted", columns)):
        if values.size and (values.min() < 0 or values.max() >= class_count):
            raise ValueError(f"a {name} class lies outside 0..{class_count - 1}")
    matrix = np.zeros((class_count, class_count), dtype=np.int64)
    np.add.at(matrix, (rows, columns), 1)
    return matrix


def class_scores(matrix: np.ndarray) -> list[ClassScore]:
    """One ClassScore per class of a confusion matrix (row = truth)."""
    hits, actual, claimed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassScore(
            precision=_ratio(hits[i], claimed[i]),
            recall=_ratio(hits[i], actual[i]),
            f1=_ratio(2 * hits[i], claimed[i] + actual[i]),
            support=int(actual[i]),
        )
        for i in range(len(matrix))
    ]


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 over the classes that occur in truth or prediction; 0.0 for an empty matrix.

    A class that neither occurs nor is ever predicted has no F1 and does not pull the mean down.
    """
    present = [score.f1 for score, claimed in zip(class_scores(matrix), matrix.sum(axis=0), strict=True) if score.support or claimed]
    return float(np.mean(present)) if present else 0.0


def accuracy(matrix: np.ndarray) -> float:
    """Share of images on the diagonal; 0.0 for an empty matrix."""
    return _ratio(np.trace(matrix), matrix.sum())


def classification_report(truth: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """The JSON-ready figures: images, macro_f1, accuracy, per_class {class: precision, recall, f1, support}, confusion [[int]]."""
    matrix = confusion_matrix(truth, predicted, len(classes))
    return {
        "images": int(matrix.sum()),
        "macro_f1": round(macro_f1(matrix), 4),
        "accuracy": round(accuracy(matrix), 4),
        "per_class": {
            name: {
                "precision": round(score.precision, 4),
                "recall": round(score.recall, 4),
                "f1": round(score.f1, 4),
                "support": score.support,
            }
            for name, score in zip(classes, class_scores(matrix), strict=True)
        },
        "confusion": matrix.tolist(),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
