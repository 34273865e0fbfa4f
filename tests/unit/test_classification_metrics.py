"""The figures on a model card, against cases that were worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "training"))

from classification_metrics import accuracy, class_scores, classification_report, confusion_matrix, macro_f1

# truth:      a a a a b b b c c c
# prediction: a a b c b b a c c a     by hand: a 2 of 4, b 2 of 3, c 2 of 3; claimed a 4, b 3, c 3
TRUTH = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
PREDICTED = [0, 0, 1, 2, 1, 1, 0, 2, 2, 0]


def test_rows_of_the_confusion_are_the_truth_and_columns_the_prediction() -> None:
    assert confusion_matrix(TRUTH, PREDICTED, 3).tolist() == [[2, 1, 1], [1, 2, 0], [1, 0, 2]]


def test_precision_recall_and_f1_match_the_hand_computed_ones() -> None:
    a, b, c = class_scores(confusion_matrix(TRUTH, PREDICTED, 3))
    assert (a.precision, a.recall, a.f1, a.support) == (0.5, 0.5, 0.5, 4)
    assert (b.precision, b.recall, b.f1, b.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert (c.precision, c.recall, c.f1, c.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))


def test_precision_and_recall_are_not_mixed_up() -> None:
    # 3 true a of which 1 is found; 1 claim of a, and it is right
    found = class_scores(confusion_matrix([0, 0, 0, 1], [0, 1, 1, 1], 2))[0]
    assert found.precision == 1.0
    assert found.recall == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx(0.5)


def test_macro_f1_weighs_a_rare_class_like_a_common_one() -> None:
    # 98 of the common class are right, the 2 rare ones are missed: F1 of the common class is 2*98/(98+100) = 98/99, of the rare one 0
    matrix = confusion_matrix([0] * 98 + [1] * 2, [0] * 100, 2)
    assert accuracy(matrix) == pytest.approx(0.98)
    assert macro_f1(matrix) == pytest.approx((98 / 99 + 0.0) / 2)


def test_macro_f1_of_the_worked_case_is_the_mean_of_its_three_f1() -> None:
    matrix = confusion_matrix(TRUTH, PREDICTED, 3)
    assert macro_f1(matrix) == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    assert accuracy(matrix) == pytest.approx(0.6)


def test_a_class_that_nobody_has_and_nobody_claims_does_not_pull_the_mean_down() -> None:
    assert macro_f1(confusion_matrix([0, 1], [0, 1], 3)) == 1.0


def test_a_class_that_is_claimed_but_never_true_counts_as_zero() -> None:
    # a: precision 1, recall 1/2, F1 2/3; b: perfect; c: claimed once, never true: 0
    assert macro_f1(confusion_matrix([0, 0, 1], [0, 2, 1], 3)) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_no_images_give_zero_figures_and_no_division_by_zero() -> None:
    matrix = confusion_matrix([], [], 4)
    assert (macro_f1(matrix), accuracy(matrix)) == (0.0, 0.0)


@pytest.mark.parametrize(("truth", "predicted"), [([0, 1], [0]), ([0, 3], [0, 1]), ([0, 1], [0, -1])])
def test_predictions_that_do_not_fit_the_truth_are_refused(truth: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match=r"class|per image"):
        confusion_matrix(truth, predicted, 3)


def test_the_report_is_plain_json_with_one_entry_per_class() -> None:
    report = classification_report(TRUTH, PREDICTED, ["a", "b", "c"])
    assert report == {
        "images": 10,
        "macro_f1": 0.6111,
        "accuracy": 0.6,
        "per_class": {
            "a": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 4},
            "b": {"precision": 0.6667, "recall": 0.6667, "f1": 0.6667, "support": 3},
            "c": {"precision": 0.6667, "recall": 0.6667, "f1": 0.6667, "support": 3},
        },
        "confusion": [[2, 1, 1], [1, 2, 0], [1, 0, 2]],
    }
