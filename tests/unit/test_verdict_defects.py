"""Model outputs become defects on the page, in pixels and in micrometres of the die."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.config import ClassCode, Rules
from edged.nouns import Frame, Geometry, ModelContract, ModelFacts, ModelOutputs
from edged.verdict import find_defects, golden_defects, page_scores
from edged.verdict.geometry import rel_um, to_input, to_page
from edged.verdict.merging import Finding, iou, merge

FACTS = ModelFacts("m", "1", "0" * 64)
CLASSES = ("particle", "scratch")
DETECTOR = ModelContract("m", "1", "0" * 64, "detection", CLASSES, None, {"boxes": "b", "scores": "s", "labels": "l"})
CLASSIFIER = ModelContract("m", "1", "0" * 64, "classification", ("None", "Center", "Donut"), "None", {"scores": "s"})
SEGMENTER = ModelContract("m", "1", "0" * 64, "segmentation", CLASSES, None, {"heatmap": "h"})
PLAIN = Geometry(1.0, 1.0, 0.0, 0.0, (0.0, 0.0, 640.0, 640.0))


def answer(*tiles: dict[str, Any], geometries: tuple[Geometry, ...] = (PLAIN,)) -> ModelOutputs:
    return ModelOutputs(FACTS, tiles, geometries, 0.0, 0.0)


def detected(*rows: tuple[list[float], float, int], places: int = 8) -> dict[str, Any]:
    boxes, scores, labels = np.zeros((places, 4), np.float32), np.zeros(places, np.float32), np.full(places, -1, np.int32)
    for n, (box, score, label) in enumerate(rows):
        boxes[n], scores[n], labels[n] = box, score, label
    return {"b": boxes, "s": scores, "l": labels}


def test_every_class_but_the_background_is_a_defect_of_the_whole_image() -> None:
    outputs = answer({"s": np.array([0.2, 0.5, 0.3], np.float32)})
    found = find_defects(CLASSIFIER, outputs, Rules(), width=64, height=64)
    assert [(d.name, d.confidence, d.box_px, d.model) for d in found] == [("Center", 0.5, None, "m:1"), ("Donut", 0.3, None, "m:1")]
    assert page_scores(CLASSIFIER, outputs) == {"None": 0.2, "Center": 0.5, "Donut": 0.3}


def test_a_class_below_the_rule_sets_confidence_is_none() -> None:
    outputs = answer({"s": np.array([0.8, 0.1, 0.1], np.float32)})
    assert find_defects(CLASSIFIER, outputs, Rules(), width=64, height=64) == ()


def test_boxes_come_back_to_page_pixels_clipped_to_the_page_and_with_the_plants_numbers() -> None:
    geometry = Geometry(2.0, 3.0, 10.0, 20.0, (0.0, 0.0, 100.0, 100.0))
    outputs = answer(detected(([1, 2, 5, 6], 0.9, 0), ([90, 90, 30, 30], 0.6, 1), ([0, 0, 9, 9], 0.29, 1)), geometries=(geometry,))
    rules = Rules(codes={"particle": ClassCode(class_no=17, rough_bin=11, fine_bin=0)})
    frame = Frame(um_per_px=0.5, offset_um=(100.0, 200.0))
    first, second = find_defects(DETECTOR, outputs, rules, width=205, height=300, frame=frame)
    assert (first.name, first.confidence, first.box_px, first.area_px) == ("particle", 0.9, (12.0, 26.0, 10.0, 18.0), 180.0)
    assert (first.class_no, first.rough_bin, first.fine_bin) == (17, 11, 0)
    assert first.size_um == (5.0, 9.0)
    assert first.rel_um == (100 + 17 * 0.5, 200 - 35 * 0.5)
    assert second.box_px == (190.0, 290.0, 15.0, 10.0)
    assert page_scores(DETECTOR, outputs) == {"particle": 0.9, "scratch": 0.6}


def test_a_box_that_lies_wholly_in_the_padding_is_no_defect() -> None:
    letterbox = Geometry(1.0, 1.0, 0.0, -50.0, (0.0, 50.0, 100.0, 50.0))
    outputs = answer(detected(([10, 10, 20, 20], 0.9, 0), ([10, 60, 20, 20], 0.8, 1)), geometries=(letterbox,))
    assert [d.name for d in find_defects(DETECTOR, outputs, Rules(), width=100, height=50)] == ["scratch"]


def test_a_region_of_a_heat_map_is_a_defect_with_its_peak_and_its_true_area() -> None:
    heat = np.zeros((2, 40, 40), np.float32)
    heat[0, 5:10, 5:10], heat[0, 7, 7] = 0.6, 0.95
    heat[0, 5, 9] = 0.1  # not part of it
    heat[1, 20:22, 30:34] = 0.4
    heat[1, 39, 39] = 0.9  # padding
    geometry = Geometry(2.0, 2.0, 0.0, 0.0, (0.0, 0.0, 38.0, 38.0))
    outputs = answer({"h": heat}, geometries=(geometry,))
    first, second = find_defects(SEGMENTER, outputs, Rules(), width=76, height=76)
    assert (first.name, first.confidence, first.box_px, first.area_px) == ("particle", 0.95, (10.0, 10.0, 10.0, 10.0), 24 * 4)
    assert (second.name, second.confidence, second.box_px, second.area_px) == ("scratch", 0.4, (60.0, 40.0, 8.0, 4.0), 8 * 4)
    assert page_scores(SEGMENTER, outputs) == {"particle": 0.95, "scratch": 0.4}


def two_tiles() -> tuple[Geometry, Geometry]:
    """Tiles of 100 px with an overlap of 20 on a page of 180 x 100."""
    valid = (0.0, 0.0, 100.0, 100.0)
    return Geometry(1, 1, 0, 0, valid, 0, 2), Geometry(1, 1, 80, 0, valid, 1, 2)


def test_a_defect_in_the_overlap_of_two_tiles_is_one_defect_with_the_better_confidence() -> None:
    outputs = answer(detected(([85, 40, 10, 10], 0.7, 0)), detected(([5.5, 40, 10, 10], 0.8, 0)), geometries=two_tiles())
    (found,) = find_defects(DETECTOR, outputs, Rules(), width=180, height=100)
    assert (found.confidence, found.box_px) == (0.8, (85.5, 40.0, 10.0, 10.0))


def test_a_defect_cut_by_the_seam_of_two_tiles_is_whole_again() -> None:
    outputs = answer(detected(([50, 40, 50, 10], 0.7, 1)), detected(([0, 41, 60, 10], 0.6, 1)), geometries=two_tiles())
    (found,) = find_defects(DETECTOR, outputs, Rules(), width=180, height=100)
    assert (found.confidence, found.box_px) == (0.7, (50.0, 40.0, 90.0, 11.0))


def test_neighbours_that_no_seam_cuts_stay_two_and_so_do_two_classes() -> None:
    outputs = answer(
        detected(([82, 10, 8, 8], 0.7, 0), ([82, 60, 8, 8], 0.7, 0)), detected(([10, 10, 8, 8], 0.6, 0), ([2, 60, 8, 8], 0.9, 1)),
        geometries=two_tiles(),
    )  # fmt: skip
    assert len(find_defects(DETECTOR, outputs, Rules(), width=180, height=100)) == 4


def test_a_classifier_on_tiles_says_in_which_tile() -> None:
    tiles = [{"s": np.array([0.9, 0.1, 0.0], np.float32)}, {"s": np.array([0.1, 0.2, 0.7], np.float32)}]
    outputs = answer(*tiles, geometries=two_tiles())
    (found,) = find_defects(CLASSIFIER, outputs, Rules(), width=180, height=100)
    assert (found.name, found.box_px) == ("Donut", (80.0, 0.0, 100.0, 100.0))
    assert page_scores(CLASSIFIER, outputs) == {"None": 0.1, "Center": 0.2, "Donut": 0.7}


def test_golden_defects_need_no_page_size() -> None:
    outputs = answer(detected(([630, 630, 30, 30], 0.9, 0)))
    assert golden_defects(DETECTOR, outputs)[0].box_px == (630.0, 630.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (Frame(um_per_px=2.0), (20.0, 140.0)),  # from the lower left corner, up and right
        (Frame(origin="UpperLeft", axis="DownRight", um_per_px=2.0), (20.0, 60.0)),
        (Frame(origin="UpperRight", axis="DownLeft", um_per_px=2.0), (180.0, 60.0)),
        (Frame(origin="Center", axis="UpRight", um_per_px=2.0), (-80.0, 40.0)),
        (Frame(origin="LowerLeft", axis="UpRight", um_per_px=2.0, offset_um=(7.0, 500.0)), (27.0, 440.0)),
        (Frame(), None),
        (None, None),
    ],
)
def test_micrometres_follow_the_frames_origin_and_axes(frame: Frame | None, expected: tuple[float, float] | None) -> None:
    assert rel_um((5.0, 20.0, 10.0, 20.0), frame, 100, 100) == expected


sizes = st.floats(1, 2000)
scales = st.floats(0.05, 20)
boxes = st.tuples(st.floats(0, 2000), st.floats(0, 2000), sizes, sizes)


@given(box=boxes, sx=scales, sy=scales, dx=st.floats(-3000, 3000), dy=st.floats(-3000, 3000))
def test_a_box_survives_the_way_to_the_page_and_back(
    box: tuple[float, float, float, float], sx: float, sy: float, dx: float, dy: float
) -> None:
    geometry = Geometry(sx, sy, dx, dy, (0, 0, 640, 640))
    assert to_input(to_page(box, geometry), geometry) == pytest.approx(box, abs=1e-4, rel=1e-6)


@given(st.integers(0, 140), st.integers(0, 60), st.integers(2, 40), st.integers(2, 40))
def test_a_defect_seen_through_tiles_is_found_where_it_is(x: int, y: int, w: int, h: int) -> None:
    """Each tile sees its part of the box; together they give the box, as long as the parts meet in the overlap."""
    rows = []
    for geometry in two_tiles():
        left, right = max(x - geometry.offset_x, 0.0), min(x + w - geometry.offset_x, 100.0)
        rows.append(detected(([left, y, right - left, h], 0.9, 0)) if right - left >= 1 else detected())
    found = find_defects(DETECTOR, answer(*rows, geometries=two_tiles()), Rules(), width=180, height=100)
    assert len(found) == 1
    assert found[0].box_px is not None
    assert iou(found[0].box_px, (x, y, w, min(h, 100 - y))) > 0.95


findings = st.lists(
    st.builds(
        Finding,
        label=st.sampled_from(CLASSES),
        confidence=st.floats(0.3, 1),
        box=st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(1, 60), st.floats(1, 60)),
        area=st.floats(1, 1000),
        source=st.integers(0, 3),
        cut=st.booleans(),
    ),
    max_size=25,
)


@given(findings, st.floats(0.05, 1), st.randoms(use_true_random=False))
def test_merging_never_loses_the_best_confidence_and_does_not_mind_the_order(found: list[Finding], limit: float, rng: Any) -> None:
    merged = merge(found, limit)
    for label in CLASSES:
        before = [f.confidence for f in found if f.label == label]
        after = [f.confidence for f in merged if f.label == label]
        assert max(before, default=0) == max(after, default=0)
        assert len(after) <= len(before)
    shuffled = list(found)
    rng.shuffle(shuffled)
    key = sorted((f.label, f.confidence, f.box) for f in merged)
    assert sorted((f.label, f.confidence, f.box) for f in merge(shuffled, limit)) == key
