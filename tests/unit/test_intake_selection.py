"""Which files are whose, which are references, and how long a file must stand still."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.config import Camera, IdentitySource, Recipe, Reference
from edged.intake.candidates import patience
from edged.intake.reference import is_reference, reference_beside, reference_candidates
from edged.intake.selection import Selection
from edged.intake.watches import Hint
from edged.nouns import Die, Identity, Landing


def camera(**options: object) -> Camera:
    return Camera(**{"name": "cam", "folder": Path("/data/drop"), "recipe": "r", **options})


def why_not(path: bytes, *cameras: Camera, recipes: dict[str, Recipe] | None = None) -> str | None:
    return Selection(cameras[-1], cameras, recipes or {}).why_not(path)


@pytest.mark.parametrize("name", [b"a.jpg", b"A.JPEG", b"b.Tiff", b"x y.png", b"\xff.bmp", b"new\nline.png"])
def test_images_are_wanted_whatever_their_letter_case_and_bytes(name: bytes) -> None:
    assert why_not(name, camera()) is None


@pytest.mark.parametrize("name", [b"a.txt", b"jpg", b".hidden.png", b"~lock.png", b".edged-5f6c.png", b"sub/a.png", b"a.png.tmp"])
def test_other_files_are_not(name: bytes) -> None:
    assert why_not(name, camera())


def test_edged_takes_its_own_files_for_nobodys_even_when_nothing_is_excluded() -> None:
    assert why_not(b".edged-1234", camera(include=("*",), exclude=()))


def test_a_glob_with_a_slash_matches_the_path() -> None:
    one = camera(recursive=True, include=("good/*.png",), exclude=("*/skip/*",))
    assert why_not(b"good/a.png", one) is None
    assert why_not(b"other/a.png", one)
    assert why_not(b"good/skip/a.png", one)


def test_a_file_is_the_first_cameras_whose_folder_and_globs_match() -> None:
    first = camera(name="first", folder=Path("/data"), recursive=True, include=("*.jpg",))
    second = camera(name="second", include=("*",))
    assert "first" in (why_not(b"a.jpg", first, second) or "")
    assert why_not(b"a.png", first, second) is None
    flat = camera(name="first", folder=Path("/data"), include=("*.jpg",))
    assert why_not(b"a.jpg", flat, second) is None
    inner = camera(name="first", folder=Path("/data/drop/inner"), include=("*.jpg",))
    outer = camera(name="outer", recursive=True)
    assert "first" in (why_not(b"inner/a.jpg", inner, outer) or "")
    assert why_not(b"innermost/a.jpg", inner, outer) is None


def test_the_folders_of_judged_files_are_not_looked_into() -> None:
    one = camera(recursive=True, exclude=(), move_to=Path("/data/drop/judged"))
    selection = Selection(one, [one], {})
    assert selection.descends(b"L1/W2")
    assert not selection.descends(b"judged")
    assert not selection.descends(b"/".join([b"d"] * 40))
    assert not Selection(camera(recursive=True), [camera()], {}).descends(b".done")


PATTERN = Recipe(name="r", models=("m",), reference=Reference(pattern="{stem}_temp.{ext}"))
OTHER = Recipe(name="other", models=("m",), reference=Reference(pattern="golden_{stem}.{ext}"))


def test_files_that_match_a_recipes_pattern_are_references() -> None:
    assert is_reference(b"a_temp.jpg", PATTERN)
    assert is_reference(b"L1/a_TEMP.JPG", PATTERN)
    assert not is_reference(b"a_test.jpg", PATTERN)
    assert not is_reference(b"_temp.jpg", PATTERN)
    assert reference_beside(b"L1/a.jpg", PATTERN) == b"L1/a_temp.jpg"


def test_a_camera_knows_the_patterns_of_the_recipes_its_images_can_have() -> None:
    recipes = {"r": PATTERN, "other": OTHER}
    assert why_not(b"a_temp.jpg", camera(), recipes=recipes) == "it is a golden reference"
    assert why_not(b"golden_a.jpg", camera(), recipes=recipes) is None
    named = camera(identity=(IdentitySource(kind="sidecar-json"),))
    assert why_not(b"golden_a.jpg", named, recipes=recipes) == "it is a golden reference"


def landing(folder: Path, path: bytes, die: Die | None = None) -> Landing:
    from datetime import UTC, datetime

    identity = Identity(die=die or Die())
    return Landing("cam", str(folder), path, 1, 1, 1, identity, "r", datetime.now(UTC), 0.0, 0.0)


def test_a_reference_may_lie_beside_the_image_or_in_the_store_and_nobody_looks(tmp_path: Path) -> None:
    assert reference_candidates(landing(tmp_path, b"L1/a.jpg"), PATTERN) == (tmp_path / "L1/a_temp.jpg",)
    shelves = tmp_path / "store"
    store = Recipe(name="r", models=("m",), reference=Reference(store=shelves))
    there = reference_candidates(landing(tmp_path, b"a.jpg", Die(-2, 3)), store)
    assert {shelves / "r" / "-2_3.tif", shelves / "r" / "-2_3.PNG"} <= set(there) and len(set(there)) == 12
    assert reference_candidates(landing(tmp_path, b"a.jpg"), store) == ()
    assert reference_candidates(landing(tmp_path, b"a.jpg", Die(1, 1)), Recipe(name="r", models=("m",))) == ()


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/../../b", "..", "a\0b"])
def test_a_recipes_name_leads_not_out_of_the_store(name: str, tmp_path: Path) -> None:
    escape = Recipe(name=name, models=("m",), reference=Reference(store=tmp_path / "store"))
    assert reference_candidates(landing(tmp_path, b"a.jpg", Die(1, 1)), escape) == ()


def test_only_a_hint_on_a_watched_folder_shortens_the_wait() -> None:
    usual = {"settle_s": None, "poll_s": 2.0, "give_up_s": 300.0}
    assert patience(Hint.MOVED, watched=True, **usual).quiet_s == 0.05
    assert patience(Hint.CLOSED, watched=True, **usual).quiet_s == 0.25
    assert patience(Hint.SEEN, watched=True, **usual).quiet_s == 2.0
    assert patience(Hint.MOVED, watched=False, **usual).quiet_s == 2.0
    assert patience(Hint.MOVED, watched=True, settle_s=1.0, poll_s=2.0, give_up_s=300.0).quiet_s == 1.0
    assert patience(Hint.SEEN, watched=False, **usual).doubt_s == 30.0
    assert patience(Hint.SEEN, watched=False, settle_s=None, poll_s=2.0, give_up_s=10.0).doubt_s == 10.0
