"""From page to tensor: the steps, the geometry that leads back, the measures, the hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.decoder_images import plan, wafer
from edged.config import Preprocess, QualityLimits
from edged.errors import FrameRejected
from edged.nouns import Defect, Geometry
from edged.vision.overlay import draw, thumbnail
from edged.vision.pixels import resize, to_8bit
from edged.vision.prepare import prepare
from edged.vision.quality import SAMPLE_PX, Measured, judge, measure
from edged.vision.steps import Steps, from_wire, preprocess_hash, to_wire


def back(geometry: Geometry, x: float, y: float) -> tuple[float, float]:
    return x * geometry.scale_x + geometry.offset_x, y * geometry.scale_y + geometry.offset_y


def mark(page: np.ndarray, x: int, y: int, size: int) -> None:
    page[y : y + size, x : x + size] = 255


FITS = st.sampled_from(["stretch", "letterbox", "tile"])


@settings(max_examples=60)
@given(st.integers(64, 300), st.integers(64, 300), FITS, st.booleans(), st.integers(0, 40), st.integers(0, 40))
def test_a_mark_on_the_page_is_found_again_where_the_geometry_says(width: int, height: int, fit: str, roi: bool, x: int, y: int) -> None:
    page = np.zeros((height, width), np.uint8)
    mark(page, x + 4, y + 4, 8)
    keys = {"roi_px": (2, 3, width - 5, height - 7)} if roi else {}
    made = prepare(page, plan(96, 64, fit=fit, tile_overlap_px=20 if fit == "tile" else 0, **keys))
    seen = 0
    for array, geometry in made:
        found = np.argwhere(array[0] > 100)
        if len(found) == 0 or (fit == "tile" and array[0].sum() < 255 * 64):
            continue
        (top, left), (bottom, right) = found.min(0), found.max(0) + 1
        near = 2 * max(geometry.scale_x, geometry.scale_y)
        assert back(geometry, left, top) == pytest.approx((x + 4, y + 4), abs=near)
        assert back(geometry, right, bottom) == pytest.approx((x + 12, y + 12), abs=near)
        vx, vy, vw, vh = geometry.valid
        assert vx <= left < right <= vx + vw and vy <= top < bottom <= vy + vh
        seen += 1
    assert seen >= 1


@settings(max_examples=60)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 63))
def test_tiles_cover_every_pixel_and_lie_within_the_page(width: int, height: int, overlap: int) -> None:
    page = np.zeros((height, width), np.uint8)
    seen = np.zeros_like(page)
    made = prepare(page, plan(64, 80, fit="tile", tile_overlap_px=overlap, pad_value=7))
    for index, (array, geometry) in enumerate(made):
        x, y, (_, _, w, h) = int(geometry.offset_x), int(geometry.offset_y), (int(v) for v in geometry.valid)
        assert x >= 0 and x + w <= width and y + h <= height and (geometry.tile, geometry.tiles) == (index, len(made))
        assert array.shape == (1, 80, 64) and (array[0, h:] == 7).all() and (array[0, :, w:] == 7).all()
        seen[y : y + h, x : x + w] = 1
    assert seen.all()


def test_exact_halvings_equal_one_area_resize_and_other_ratios_stay_within_a_gray_level() -> None:
    page = wafer(512, 1024)
    assert np.array_equal(resize(page, 256, 128, "area"), cv2.resize(page, (256, 128), interpolation=cv2.INTER_AREA)) or (
        np.abs(resize(page, 256, 128, "area").astype(int) - cv2.resize(page, (256, 128), interpolation=cv2.INTER_AREA)).max() <= 1
    )
    other = np.abs(resize(page, 300, 160, "area").astype(int) - cv2.resize(page, (300, 160), interpolation=cv2.INTER_AREA))
    assert other.mean() < 1.0
    assert np.array_equal(resize(page, 2048, 1024, "area"), cv2.resize(page, (2048, 1024), interpolation=cv2.INTER_LINEAR))
    assert np.array_equal(resize(page, 512, 256, "nearest"), page[::2, ::2])


def test_sixteen_bits_become_eight_by_the_high_byte_or_by_the_window() -> None:
    page = np.array([[0, 255, 256, 1000, 3000, 5000, 65535]], np.uint16)
    assert to_8bit(page, None).tolist() == [[0, 0, 1, 3, 11, 19, 255]]
    assert to_8bit(page, (1000, 5000)).tolist() == [[0, 0, 0, 0, 128, 255, 255]]
    assert prepare(page, plan(7, 1, fit="none", window_low=1000, window_high=5000))[0][0].tolist() == [[[0, 0, 0, 0, 128, 255, 255]]]


def test_a_flat_field_takes_out_the_lamp() -> None:
    lamp = np.tile(np.linspace(0.5, 1.5, 80), (60, 1))
    page, flat = np.clip(100 * lamp, 0, 255).astype(np.uint8), np.clip(120 * lamp, 0, 255).astype(np.uint8)
    corrected = plan(80, 60, flat_field=Path("flat.png"))
    ((array, _),) = prepare(page, corrected, None, flat)
    assert array.std() < 1.5 and abs(array.mean() - 100) < 2
    ((part, _),) = prepare(page, plan(40, 30, flat_field=Path("f"), roi_px=(10, 10, 40, 30)), None, flat)
    assert part.std() < 1.5
    with pytest.raises(FrameRejected, match="flat field"):
        prepare(page, corrected, None, flat[:50])


def test_clahe_raises_local_contrast_in_gray_and_colour() -> None:
    page = (wafer(60, 80) // 4) + 90
    ((array, _),) = prepare(page, plan(80, 60, clahe_clip=4.0))
    assert array.std() > page.std() * 1.3
    ((colour, _),) = prepare(np.dstack([page] * 3), plan(80, 60, channels=3, colour="rgb", clahe_clip=4.0))
    assert colour.std() > page.std() * 1.3


def test_rgb_models_get_rgb_and_gray_pages_serve_them_too() -> None:
    page = np.zeros((60, 80, 3), np.uint8)
    page[..., 2] = 200  # red, as OpenCV stores it
    ((array, _),) = prepare(page, plan(80, 60, channels=3, colour="rgb"))
    assert array[0].min() == 200 and not array[1:].any()
    ((array, _),) = prepare(page[..., 2], plan(80, 60, channels=3, colour="rgb"))
    assert (array == 200).all()


def test_references_fill_the_last_channels_in_the_same_geometry_or_leave_zeros() -> None:
    page, golden = wafer(60, 80), wafer(60, 80, 5)
    both = plan(40, 40, channels=2, reference=True, fit="tile", tile_overlap_px=8)
    alone = prepare(golden, plan(40, 40, fit="tile", tile_overlap_px=8))
    for (array, _), (expected, _) in zip(prepare(page, both, golden), alone, strict=True):
        assert np.array_equal(array[1], expected[0])
    assert not prepare(page, both)[0][0][1].any() and not prepare(page, both, golden[:50])[0][0][1].any()
    six = plan(80, 60, channels=6, colour="rgb", reference=True)
    four = plan(80, 60, channels=4, colour="rgb", reference=True)
    assert np.array_equal(prepare(page, six, golden)[0][0][5], golden)
    assert np.abs(prepare(page, four, np.dstack([golden] * 3))[0][0][3].astype(int) - golden).max() <= 1


def test_normalisation_on_the_wire_is_value_minus_mean_times_scale() -> None:
    page = wafer(60, 80)
    ((array, _),) = prepare(page, plan(80, 60, dtype="FP32", normalise="wire", mean=(100.0,), scale=(0.25,)))
    assert array.dtype == np.float32 and np.allclose(array[0], (page.astype(float) - 100) / 4)


def test_a_page_that_does_not_fit_is_rejected_for_its_shape() -> None:
    for unfit in (plan(64, 64, fit="none"), plan(roi_px=(50, 0, 40, 10))):
        with pytest.raises(FrameRejected) as rejected:
            prepare(wafer(60, 80), unfit)
        assert rejected.value.reason == "shape"


def test_sharpness_falls_with_blur_and_exposure_is_told_in_fractions() -> None:
    page = wafer(600, 800)
    blurred = cv2.GaussianBlur(page, (0, 0), 3)
    assert measure(page).sharpness > 20 * measure(blurred).sharpness
    bright = np.full((600, 800), 255, np.uint8)
    bright[:300] = 0
    measured = measure(bright)
    assert measured.saturated_frac == pytest.approx(0.5, abs=0.01) and measured.dark_frac == pytest.approx(0.5, abs=0.01)
    assert measured.mean == pytest.approx(127.5, abs=2)


def test_the_sample_of_a_large_page_says_what_the_whole_page_says() -> None:
    page = wafer(1200, 1600)
    whole = cv2.Laplacian(page, cv2.CV_16S)
    assert page.size > 10 * SAMPLE_PX
    assert measure(page).sharpness == pytest.approx(float(whole.var()), rel=0.1)
    assert measure(page).mean == pytest.approx(float(page.mean()), rel=0.02)
    small = wafer(100, 120)
    assert measure(small).sharpness == pytest.approx(float(cv2.Laplacian(small, cv2.CV_16S).var()), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500_000), (500_000, 1), (3, 3), (2, 70_000), (257, 255, 3)])
def test_pages_of_any_shape_can_be_measured(shape: tuple[int, ...]) -> None:
    measured = measure(np.full(shape, 77, np.uint8))
    assert measured.mean == pytest.approx(77) and measured.sharpness == pytest.approx(0)


def test_quality_problems_say_figure_and_limit() -> None:
    measured = Measured(10.0, 250.0, 0.4, 0.0)
    quality = judge(measured, QualityLimits(min_sharpness=20, min_mean=20, max_mean=200, max_saturated_frac=0.1))
    assert not quality.ok and len(quality.problems) == 3 and "10.0 is below 20" in quality.problems[0]
    assert judge(measured, None).ok and judge(measured, QualityLimits()).ok


def test_the_hash_follows_what_has_an_effect_and_nothing_else() -> None:
    base = plan()
    digest, steps = preprocess_hash(base)
    assert steps == ("gray", "high byte", "stretch 64x48 area") and len(digest) == 16
    same = (replace(base, model="other"), plan(pad_value=9), plan(tile_overlap_px=3), plan(clahe_tiles=4))
    assert {preprocess_hash(one)[0] for one in same} == {digest}
    different = [
        plan(interpolation="linear"), plan(fit="letterbox"), plan(window_low=1, window_high=9), plan(clahe_clip=2.0), plan(fit="tile"),
        plan(roi_px=(0, 0, 9, 9)), plan(flat_field=Path("a")), plan(channels=2, reference=True), plan(64, 50),
        plan(dtype="FP32", normalise="wire"),
    ]  # fmt: skip
    assert len({preprocess_hash(one)[0] for one in different} | {digest}) == len(different) + 1
    flat = plan(flat_field=Path("a"))
    assert preprocess_hash(flat, "aa")[0] == preprocess_hash(plan(flat_field=Path("b")), "aa")[0] != preprocess_hash(flat, "bb")[0]


def test_a_plan_survives_the_wire_with_every_key_of_the_configuration() -> None:
    assert set(Steps.__slots__) == set(Preprocess.model_fields)
    keys = {"roi_px": (1, 2, 3, 4), "flat_field": Path("/x/y.png"), "clahe_clip": 2.0, "fit": "tile", "tile_overlap_px": 5}
    sent = plan(**keys)
    received = from_wire(to_wire(sent))
    assert preprocess_hash(received) == preprocess_hash(sent)
    assert (received.dims, received.dtype, received.model) == (sent.dims, sent.dtype, sent.model)
    assert from_wire(to_wire(plan())).preprocess == Steps(width_px=64, height_px=48)


def test_an_overlay_draws_each_box_and_a_thumbnail_is_a_small_jpeg() -> None:
    page = np.zeros((400, 600), np.uint8)
    image = draw(page, [Defect("scratch", 0.9, (100, 50, 200, 80)), Defect("whole", 0.5, None)])
    assert image.shape == (400, 600, 3) and image[50, 150].any() and not image[250, 300].any() and not page.any()
    small = cv2.imdecode(np.frombuffer(thumbnail(wafer(400, 600), 200), np.uint8), cv2.IMREAD_UNCHANGED)
    assert small.shape[:2] == (133, 200)
    assert cv2.imdecode(np.frombuffer(thumbnail(wafer(30, 40)), np.uint8), cv2.IMREAD_UNCHANGED).shape[:2] == (30, 40)
