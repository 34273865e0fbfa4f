"""Model packages: what a manifest may say, what the live repository takes, and which version a recipe gets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edged.config import Preprocess
from edged.errors import ModelMismatch, Unavailable
from edged.inference.content import verify_files
from edged.inference.manifest import Manifest, read_manifest
from edged.inference.package_files import onnx_wrapper
from edged.inference.repository import Repository
from edged.inference.selection import active_version, split_reference
from rigs.packages import manifest_of, write_package

HASH = {"1/model.onnx": b"\x08\x08"}  # of version 8, and empty otherwise
DETECTION: dict[str, Any] = {
    "kind": "detection",
    "model": "1/model.onnx",
    "classes": ["particle", "scratch"],
    "background": None,
    "outputs": [
        {"name": "boxes", "dtype": "FP32", "dims": [64, 4], "role": "boxes"},
        {"name": "scores", "dtype": "FP32", "dims": [64], "role": "scores"},
        {"name": "labels", "dtype": "INT32", "dims": [64], "role": "labels"},
    ],
}


def manifest(**changes: Any) -> Manifest:
    return Manifest.model_validate(manifest_of("m", HASH, model="1/model.onnx", **changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelMismatch) as error:
        read_manifest(folder)
    assert "\n" not in str(error.value)
    assert error.value.hint
    return str(error.value)


def test_a_manifest_becomes_the_models_contract_and_its_inputs_plan() -> None:
    found = manifest()
    contract = found.contract()
    assert (contract.name, contract.version, contract.kind, contract.background) == ("m", "1", "classification", "none")
    assert contract.outputs == {"scores": "scores"}
    assert contract.sha256 == found.files["1/model.onnx"]
    plan = found.plan()
    assert (plan.dims, plan.dtype, plan.reference, plan.preprocess.fit) == ((1, 32, 32), "UINT8", False, "none")


def test_a_recipes_preprocess_replaces_the_models_own() -> None:
    plan = manifest().plan(Preprocess(fit="tile", width_px=32, height_px=32, tile_overlap_px=8))
    assert (plan.preprocess.fit, plan.preprocess.tile_overlap_px) == ("tile", 8)


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (Preprocess(width_px=64, height_px=32), "the recipe's preprocess makes 1x32x64 (gray), but the input image takes 1x32x32"),
        (Preprocess(width_px=32, height_px=32, colour="rgb"), "makes 3x32x32 (rgb), but the input image takes 1x32x32"),
        (Preprocess(width_px=32, height_px=32, normalise="wire"), "(normalise = wire) makes FP32, but the input image takes UINT8"),
    ],
)
def test_a_preprocess_that_does_not_fit_the_input_is_refused_naming_both(preprocess: Preprocess, said: str) -> None:
    with pytest.raises(ModelMismatch) as error:
        manifest().plan(preprocess)
    assert said in str(error.value)


@pytest.mark.parametrize(("channels", "colour"), [(2, "gray"), (4, "rgb"), (6, "rgb")])
def test_a_golden_reference_is_further_channels_of_the_input(channels: int, colour: str) -> None:
    inputs = [{"name": "image", "dtype": "UINT8", "dims": [channels, 32, 32], "channels": [colour, "reference"]}]
    preprocess = {"colour": colour, "fit": "none", "width_px": 32, "height_px": 32}
    assert manifest(inputs=inputs, preprocess=preprocess).plan().reference


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "detection"}, "a detection model has the outputs ['boxes', 'labels', 'scores'], not ['scores']"),
        ({"classes": ["a", "b"], "background": None}, "scores has the dims [3] for 2 classes"),
        ({"classes": ["a", "a", "none"]}, "two classes have the same name"),
        ({"background": "nothing"}, "background 'nothing' is none of the classes"),
        ({"model": "1/other.onnx"}, "files does not list the model '1/other.onnx'"),
        ({"files": {"../outside": "0" * 64}}, "not a plain path below the package"),
        ({"files": {"/etc/passwd": "0" * 64}}, "not a plain path below the package"),
        ({"files": {"1/model.py": "beef"}}, "files.1/model.py"),
        ({"version": "1__2"}, "version"),
        ({"inputs": []}, "inputs"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({**DETECTION, "model": "1/model.py", "outputs": [*DETECTION["outputs"][:2], {**DETECTION["outputs"][2], "dims": [32]}]}, "same K"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = write_package(tmp_path, "m")
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, **changes}))
    assert said in refusal(folder)


def test_a_detection_manifest_is_taken() -> None:
    assert Manifest.model_validate(manifest_of("d", HASH, **DETECTION)).contract().outputs["boxes"] == "boxes"


def test_a_manifest_that_is_missing_or_no_json_or_of_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty__1").mkdir()
    assert "has no manifest.json" in refusal(tmp_path / "empty__1")
    (tmp_path / "empty__1/manifest.json").write_text("{")
    assert "is not JSON" in refusal(tmp_path / "empty__1")
    folder = write_package(tmp_path, "m")
    folder.rename(tmp_path / "other__1")
    assert "must be called m__1" in refusal(tmp_path / "other__1")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.unlink(), "lacks the file golden/0.png"),
        (lambda f: f.write_bytes(b"other"), "golden/0.png has the sha256"),
        (lambda f: (f.unlink(), f.symlink_to("/etc/hostname")), "golden/0.png is not a regular file"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_hashed_is_refused(tmp_path: Path, damage: Any, said: str) -> None:
    folder = write_package(tmp_path, "m")
    found = read_manifest(folder)
    verify_files(folder, found)
    damage(folder / "golden/0.png")
    with pytest.raises(ModelMismatch) as error:
        verify_files(folder, found)
    assert said in str(error.value)


def repository(tmp_path: Path, *, allow_python: bool = True) -> Repository:
    (tmp_path / "seed").mkdir(exist_ok=True)
    made = Repository(tmp_path / "state", tmp_path / "seed", allow_python=allow_python)
    made.refresh()
    return made


def test_the_live_repository_is_seeded_with_what_the_manifest_lists_and_edgeds_own_config(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "seed", "m")
    (folder / "config.pbtxt").write_text("backend: 'something else'")
    (folder / "stray.txt").write_text("not listed")
    repository(tmp_path)
    live = tmp_path / "state/models/m__1"
    assert 'name: "m__1"' in (live / "config.pbtxt").read_text()
    assert (live / "1/model.py").read_bytes() == (folder / "1/model.py").read_bytes()
    assert not (live / "stray.txt").exists()
    assert live.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["models"]


def test_a_packages_own_python_is_refused_unless_allowed(tmp_path: Path) -> None:
    write_package(tmp_path / "seed", "m")
    refused = repository(tmp_path, allow_python=False)
    with pytest.raises(ModelMismatch, match=r"Python code of its own \(1/model.py\).*allow_python"):
        refused.package("m")
    assert not (tmp_path / "state/models/m__1").exists()


def test_the_python_wrapper_of_a_live_package_is_always_edgeds_own(tmp_path: Path) -> None:
    folder = tmp_path / "seed/m__1"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(HASH["1/model.onnx"])
    (folder / "1/model.py").write_text("import os  # a stranger's")
    (folder / "manifest.json").write_text(json.dumps(manifest_of("m", HASH, model="1/model.onnx")))
    repository(tmp_path, allow_python=False).package("m")
    wrapper = tmp_path / "state/models/m__1/1/model.py"
    assert wrapper.read_text() == onnx_wrapper()
    wrapper.write_text("tampered")
    repository(tmp_path, allow_python=False)
    assert wrapper.read_text() == onnx_wrapper()


def test_a_damaged_live_package_is_replaced_from_the_seed_and_a_sound_one_is_left_alone(tmp_path: Path) -> None:
    write_package(tmp_path / "seed", "m")
    repository(tmp_path)
    golden, model = (tmp_path / "state/models/m__1" / name for name in ("golden/0.png", "1/model.py"))
    inode = model.stat().st_ino
    repository(tmp_path)
    assert model.stat().st_ino == inode
    golden.write_bytes(b"rotten")
    assert repository(tmp_path).package("m").label == "m:1"
    assert golden.read_bytes() != b"rotten"


def test_a_damaged_live_package_without_a_seed_is_not_served(tmp_path: Path) -> None:
    folder = write_package(tmp_path / "seed", "m")
    repository(tmp_path)
    (folder / "golden/0.png").write_bytes(b"rotten")
    (tmp_path / "state/models/m__1/golden/0.png").write_bytes(b"rotten too")
    with pytest.raises(ModelMismatch, match=r"golden/0.png has the sha256"):
        repository(tmp_path).package("m")


def test_a_new_package_of_the_same_version_replaces_the_live_one(tmp_path: Path) -> None:
    write_package(tmp_path / "seed", "m")
    repository(tmp_path)
    write_package(tmp_path / "seed", "m", gain=0.5)
    assert repository(tmp_path).package("m").manifest == read_manifest(tmp_path / "seed/m__1")
    assert "0.5" in (tmp_path / "state/models/m__1/1/model.py").read_text()


def test_what_a_killed_process_left_half_seeded_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    dead, living = tmp_path / "state/.seeding-4194305-aa", tmp_path / f"state/.seeding-{os.getppid()}-bb"
    dead.mkdir(parents=True)
    living.mkdir()
    repository(tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_a_recipe_gets_the_highest_version_or_exactly_the_one_it_names(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        write_package(tmp_path / "seed", "m", version=version)
    found = repository(tmp_path)
    assert found.package("m").label == "m:10"
    assert found.package("m:9").label == "m:9"
    with pytest.raises(ModelMismatch, match="model m:3: it is not in the model repository .* there are: m:10, m:2, m:9"):
        found.package("m:3")


def test_a_live_repository_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(Unavailable, match="model repository"):
        Repository(tmp_path / "state", None).refresh()


@pytest.mark.parametrize(
    ("versions", "highest"), [(["1", "2", "10"], "10"), (["1.9", "1.10"], "1.10"), (["1", "1.1"], "1.1"), (["2", "2-rc1"], "2")]
)
def test_versions_compare_their_numbers_as_numbers(versions: list[str], highest: str) -> None:
    assert active_version(versions) == highest
    assert active_version(reversed(versions)) == highest


def test_a_reference_names_a_model_or_a_version_of_it() -> None:
    assert split_reference("m") == ("m", None)
    assert split_reference("m:3") == ("m", "3")
