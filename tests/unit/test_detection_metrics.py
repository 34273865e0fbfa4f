"""The figures on a detector's card, against cases that were worked out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "training"))

from detection_metrics import (
    Found,
    Truth,
    average_precision,
    best_threshold,
    class_precisions,
    detection_report,
    iou_matrix,
    matched,
    mean_ap,
    precision_recall_f,
)


def found(*rows: tuple[float, float, float, float, float, int]) -> Found:
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))


def truth(*rows: tuple[float, float, float, float, int]) -> Truth:
    table = np.array(rows, dtype=float).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(int))


def test_overlap_is_the_shared_area_over_the_joint_area() -> None:
    # 10 x 10 against the same moved by (5, 0): 50 shared of 150; moved by (10, 0): they only touch; inside it 5 x 4: 20 of 100
    overlaps = iou_matrix(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 10, 10], [10, 0, 10, 10], [2, 3, 5, 4]]))
    assert overlaps.tolist() == [pytest.approx([1 / 3, 0.0, 0.2])]


def test_a_box_without_area_overlaps_nothing() -> None:
    assert iou_matrix(np.array([[3, 3, 0, 0]]), np.array([[3, 3, 0, 0]])).tolist() == [[0.0]]


def test_the_second_detection_of_one_defect_is_wrong() -> None:
    twice = found((0, 0, 10, 10, 0.6, 0), (1, 0, 10, 10, 0.9, 0))
    assert matched(twice, truth((0, 0, 10, 10, 0)), 0.33).tolist() == [False, True]


def test_a_detection_of_another_class_is_wrong() -> None:
    assert matched(found((0, 0, 10, 10, 0.9, 1)), truth((0, 0, 10, 10, 0)), 0.33).tolist() == [False]


def test_the_overlap_must_exceed_the_bound() -> None:
    # 10 x 10 inside 20 x 10 overlaps by exactly one half
    exactly = found((0, 0, 10, 10, 0.9, 0))
    assert matched(exactly, truth((0, 0, 20, 10, 0)), 0.5).tolist() == [False]
    assert matched(exactly, truth((0, 0, 20, 10, 0)), 0.33).tolist() == [True]


def test_a_detection_claims_the_true_box_it_overlaps_most_and_leaves_the_other() -> None:
    two = truth((0, 0, 10, 10, 0), (4, 0, 10, 10, 0))
    assert matched(found((3, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0)), two, 0.33).tolist() == [True, True]


def test_average_precision_is_the_area_under_the_envelope() -> None:
    # by score: hit, miss, hit, miss, of 3 true boxes. precision 1, 1/2, 2/3, 1/2; recall 1/3, 1/3, 2/3, 2/3: 1/3 * 1 + 1/3 * 2/3
    scores, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, correct, 3) == pytest.approx(5 / 9)


def test_the_envelope_lifts_an_early_miss_to_what_is_reached_later() -> None:
    # miss, hit, hit of 2: precision 0, 1/2, 2/3; the envelope is 2/3 everywhere
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([False, True, True]), 2) == pytest.approx(2 / 3)


def test_classes_that_do_not_occur_do_not_pull_the_mean_down() -> None:
    one = class_precisions([found((0, 0, 10, 10, 0.9, 0), (50, 50, 9, 9, 0.9, 1))], [truth((0, 0, 10, 10, 0))], 3, 0.5)
    assert one == [1.0, None, None]
    assert mean_ap(one) == 1.0


def test_nothing_found_and_nothing_there_gives_zeros_not_an_error() -> None:
    assert precision_recall_f([found()], [truth()], 0.5, 0.33) == (0.0, 0.0, 0.0)
    assert mean_ap(class_precisions([found()], [truth()], 2, 0.5)) == 0.0


# two images; at 0.5: found 3, right 2, of 4 true boxes
IMAGES = [
    found((0, 0, 10, 10, 0.9, 0), (40, 40, 10, 10, 0.7, 1), (80, 80, 10, 10, 0.3, 0)),
    found((0, 0, 10, 10, 0.8, 1)),
]
BOXES = [truth((0, 0, 10, 12, 0), (80, 80, 10, 10, 0), (200, 200, 10, 10, 1)), truth((0, 0, 10, 10, 1))]


def test_precision_recall_and_f_count_over_all_images_and_classes() -> None:
    assert precision_recall_f(IMAGES, BOXES, 0.5, 0.33) == pytest.approx((2 / 3, 2 / 4, 4 / 7))


def test_the_best_threshold_is_the_middle_of_the_best_ones_or_as_far_up_as_asked() -> None:
    # up to 0.3 the third detection counts: 3 right of 4 found, of 4: F 0.75, the best; thresholds tried from 0.05 on
    assert best_threshold(IMAGES, BOXES, 0.33) == pytest.approx((0.05 + 0.3) / 2)
    assert best_threshold(IMAGES, BOXES, 0.33, at=1 / 3) == pytest.approx(0.05 + 0.25 / 3)


def test_the_report_holds_percentages_for_all_and_for_each_class() -> None:
    report = detection_report(IMAGES, BOXES, ["particle", "scratch"], 0.5)
    assert (report["images"], report["precision"], report["recall"], report["f"]) == (2, 66.67, 50.0, 57.14)
    # particle: both found, the second at a low score: 100. scratch: hit 0.8, miss 0.7, one never found: 1/2
    assert report["map_33"] == 75.0
    assert report["per_class"]["scratch"] == {"ap_33": 50.0, "ap_50": 50.0, "precision": 50.0, "recall": 50.0, "f": 50.0, "support": 2}
    assert report["per_class"]["particle"]["recall"] == 50.0


def test_every_image_needs_its_truth() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        class_precisions([found()], [], 1, 0.5)
