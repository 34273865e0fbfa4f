"""Made-up dies: the truth that comes with them must be true, or whatever is trained or shown with them lies."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from edged.simulate.defects import CLASSES, Box, Film, add_defects
from edged.simulate.dies import Die, make_die
from edged.simulate.layouts import LAYOUTS, SUPERSAMPLING, draw_layout

SIZE = 320


@pytest.fixture(scope="module")
def dies() -> list[Die]:
    return [make_die(np.random.default_rng(seed), SIZE, 4) for seed in range(60)]


def test_a_seed_stands_for_an_image() -> None:
    one, two, other = (make_die(np.random.default_rng(seed), SIZE) for seed in (5, 5, 6))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.reference, two.reference)
    assert one.boxes == two.boxes
    assert not np.array_equal(one.image, other.image)


def test_a_die_without_defects_has_no_boxes() -> None:
    assert make_die(np.random.default_rng(1), SIZE, 0).boxes == ()


def test_image_and_reference_are_gray_squares_of_the_size_asked_for() -> None:
    die = make_die(np.random.default_rng(2), 480, 3)
    assert die.image.shape == die.reference.shape == (480, 480)
    assert die.image.dtype == die.reference.dtype == np.uint8


def test_every_class_occurs_and_nothing_else(dies: list[Die]) -> None:
    counted = Counter(box.kind for die in dies for box in die.boxes)
    assert set(counted) == set(CLASSES)
    assert min(counted.values()) >= 15


def test_most_dies_hold_as_many_defects_as_were_asked_for(dies: list[Die]) -> None:
    assert max(len(die.boxes) for die in dies) == 4
    assert sum(len(die.boxes) == 4 for die in dies) >= 40


def test_boxes_lie_within_the_image_and_apart(dies: list[Die]) -> None:
    for die in dies:
        for n, box in enumerate(die.boxes):
            assert box.x >= 0
            assert box.y >= 0
            assert box.x + box.w <= SIZE
            assert box.y + box.h <= SIZE
            assert min(box.w, box.h) >= 4
            assert not any(box.meets(other) for other in die.boxes[:n])


def test_the_layout_changes_inside_the_boxes_and_nowhere_else() -> None:
    changed_somewhere = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        layout = draw_layout(rng, SIZE).mask
        defective = add_defects(rng, layout, 4, (60.0, 180.0))
        changed = defective.mask != layout
        changed_somewhere += bool(changed.any())
        for box in defective.boxes:
            left, top, right, bottom = (int(v * SUPERSAMPLING) for v in (box.x, box.y, box.x + box.w, box.y + box.h))
            changed[top:bottom, left:right] = False
        assert not changed.any(), f"seed {seed}: the layout changed outside every box"
    assert changed_somewhere > 20


def test_bridges_add_conductor_and_opens_take_it_away() -> None:
    seen = Counter[str]()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        layout = draw_layout(rng, SIZE).mask
        defective = add_defects(rng, layout, 6, (60.0, 180.0))
        for box in defective.boxes:
            if box.kind in {"bridge", "open", "missing_pattern"}:
                before, after = (_within(mask, box) for mask in (layout, defective.mask))
                assert (after > before) == (box.kind == "bridge"), f"seed {seed}: {box}"
                seen[box.kind] += 1
    assert min(seen.values()) >= 10
    assert len(seen) == 3


def _within(mask: np.ndarray, box: Box) -> int:
    left, top, right, bottom = (int(v * SUPERSAMPLING) for v in (box.x, box.y, box.x + box.w, box.y + box.h))
    return int(np.count_nonzero(mask[top:bottom, left:right]))


def test_what_lies_on_top_differs_from_substrate_and_conductor() -> None:
    films: list[Film] = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        films.extend(add_defects(rng, draw_layout(rng, SIZE).mask, 6, (60.0, 180.0)).films)
    assert films
    assert all(min(abs(film.tone - 60), abs(film.tone - 180)) >= 45 for film in films)


def test_a_defect_is_seen_against_the_reference(dies: list[Die]) -> None:
    visible = 0
    total = 0
    for die in dies:
        # smoothed, so that noise and a pixel of misregistration matter less than a defect
        image, reference = (cv2.GaussianBlur(side.astype(np.float32), (0, 0), 2) for side in (die.image, die.reference))
        difference = np.abs(image - reference)
        for box in die.boxes:
            inside = difference[int(box.y) : int(box.y + box.h), int(box.x) : int(box.x + box.w)]
            visible += bool(inside.max() > 2 * np.median(difference) + 8)
            total += 1
    assert visible > 0.93 * total


def test_lines_and_spaces_show_the_conductor_brighter_since_nothing_else_would_tell() -> None:
    # make_die draws the layout first, so that the same seed gives it again
    seen = 0
    for seed in range(60):
        layout = draw_layout(np.random.default_rng(seed), SIZE)
        if not layout.tells:
            cover = cv2.resize(layout.mask, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            image = make_die(np.random.default_rng(seed), SIZE, 0).image
            assert image[cover == 255].mean() > image[cover == 0].mean(), f"seed {seed}"
            seen += 1
    assert seen >= 8


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_has_conductor_and_space(name: str) -> None:
    share = np.mean([LAYOUTS[name](np.random.default_rng(seed), 640).mean() / 255 for seed in range(8)])
    assert 0.04 < share < 0.9
