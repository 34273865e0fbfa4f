"""check-config refuses what can never work and warns of what would not work now; identify names files as the daemon does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edged.cli import main
from edged.errors import ConfigError

MODELS = Path(__file__).parents[2] / "model_repository"


class Plant:
    """A configuration file in a folder of its own, with room to change it."""

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.drop = root, root / "edged.toml", root / "drop"
        self.drop.mkdir()

    def write(self, *, camera: str = "", recipe: str = "", rest: str = "", models: str = "die_defect") -> None:
        self.file.write_text(
            f'[station]\nstate_dir = "{self.root}/state"\n[models]\nrepository = "{MODELS}"\n'
            f'[[recipe]]\nname = "r"\nmodels = ["{models}"]\n{recipe}'
            f'[[camera]]\nname = "cam1"\nrecipe = "r"\nfolder = "{self.drop}"\n{camera}\n{rest}'
        )

    def warnings(self, capsys: pytest.CaptureFixture[str]) -> str:
        assert main(["check-config", "--json", "--config", str(self.file)]) == 0
        return "\n".join(json.loads(capsys.readouterr().out)["warnings"])


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


TEMPLATE = '[[camera.identity]]\nkind = "path-template"\npattern = "{lot_id}/{wafer_id}/{die_x}_{die_y}"\n'


def test_a_relative_path_matches_a_template_with_folders(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f'[[camera]]\nname = "first"\nrecipe = "r"\nfolder = "{plant.root}/elsewhere"\n'
    plant.write(camera=f"recursive = true\n{TEMPLATE}")
    plant.file.write_text(plant.file.read_text().replace("[[camera]]", f"{other}[[camera]]", 1))
    (plant.drop / "L1" / "W2").mkdir(parents=True)
    (plant.drop / "L1" / "W2" / "3_-4.png").write_bytes(b"x")
    monkeypatch.chdir(plant.drop / "L1")
    assert main(["identify", "--json", "--config", str(plant.file), "../L1/W2/3_-4.png"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "file": "../L1/W2/3_-4.png",
        "camera": "cam1",
        "from": "path-template",
        "lot_id": "L1",
        "wafer_id": "W2",
        "complete": True,
        "die_x": 3,
        "die_y": -4,
    }


def test_identify_tells_times_in_utc_and_when_only_a_name_was_read(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant.write(camera=TEMPLATE.replace("{lot_id}/{wafer_id}/{die_x}_{die_y}", "{lot_id}_{wafer_id}_{acquired}"))
    main(["identify", "--json", "--config", str(plant.file), "L_W_20260102T030405.png", str(plant.drop)])
    name, folder = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert name["acquired"] == "2026-01-02T03:04:05.000Z"
    assert name["remark"] == "no such file: only its name was read"
    assert folder["remark"] == "a directory, no image: only its name was read"
    main(["identify", "--config", str(plant.file), "L_W_20260102T030405.png"])
    text = capsys.readouterr().out
    assert "(no such file: only its name was read)" in text and "2026-01-02T03:04:05.000Z" in text


def test_a_model_that_nobody_packaged_is_a_warning_with_the_one_that_was_meant(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant.write(models="die_defct")
    assert "no package of the model 'die_defct'" in (told := plant.warnings(capsys)) and "(did you mean 'die_defect'?)" in told
    plant.write(models="die_defect:99")
    assert "no package of the model 'die_defect:99'" in plant.warnings(capsys)
    for known in ("die_defect", "die_defect:1"):
        plant.write(models=known)
        assert "package" not in plant.warnings(capsys)
    shutil.copytree(MODELS / "die_defect__1", plant.root / "state" / "models" / "late__2")
    plant.write(models="late:2")
    assert "package" not in plant.warnings(capsys)


def test_files_that_are_named_but_missing_are_warnings(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = '[recipe.preprocess]\nflat_field = "/no/flat.png"\n[recipe.reference]\nstore = "/no/store"\n'
    plant.write(recipe=recipe, rest='[mqtt]\npassword_file = "/no/pw"\nca = "/no/ca"\n[http]\ntls_cert = "/no/c"\ntls_key = "/no/k"\n')
    told = plant.warnings(capsys)
    for path in ("/no/flat.png", "/no/store", "/no/pw", "/no/ca", "/no/c", "/no/k"):
        assert f"{path} does not exist" in told


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_what_can_never_work_is_refused_with_every_reason(plant: Plant, command: str) -> None:
    plant.write(camera=TEMPLATE.replace("{die_y}", "{die_y}.{ext}"), rest='[http]\ntokens_file = "/no/tokens"\n')
    with pytest.raises(ConfigError) as caught:
        main([command, "--config", str(plant.file)])
    assert [problem.key for problem in caught.value.problems] == ["camera.0.identity.0.pattern", "http.tokens_file"]
    assert "{ext} is unknown" in str(caught.value) and "/no/tokens does not exist" in str(caught.value)


def test_json_tells_the_problems_on_stdout_and_ends_with_78(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant.write(rest='[mqtt]\nhots = "x"\n')
    assert main(["check-config", "--json", "--config", str(plant.file)]) == 78
    problem = {"file": str(plant.file), "key": "mqtt.hots", "problem": "unknown key", "hint": "did you mean 'host'?"}
    assert json.loads(capsys.readouterr().out) == {"ok": False, "problems": [problem]}


@pytest.mark.parametrize(
    ("first", "second", "below", "warned"),
    [
        ("", "", "", True),
        ("", 'include = ["d*"]', "", True),
        ('include = ["*.png"]', 'include = ["*.PNG", "*.tif"]', "", True),
        ('include = ["*.png"]', 'include = ["*.jpg", "*.tif"]', "", False),
        ("recursive = true", "", "/sub", True),
        ("", "recursive = true", "/sub", False),
    ],
)
def test_cameras_that_may_share_files_are_a_warning(
    plant: Plant, capsys: pytest.CaptureFixture[str], first: str, second: str, below: str, warned: bool
) -> None:
    plant.write(camera=first, rest=f'[[camera]]\nname = "cam2"\nrecipe = "r"\nfolder = "{plant.drop}{below}"\n{second}\n')
    assert ("cam1 and cam2 watch the same files" in plant.warnings(capsys)) is warned


def test_a_baseline_says_how_many_files_it_would_pass_over(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png", "notes.txt", "sub/c.png", ".hidden/d.png"):
        (plant.drop / name).parent.mkdir(exist_ok=True)
        (plant.drop / name).write_bytes(b"x")
    plant.write(camera='existing = "baseline"')
    assert "records 2 files now" in plant.warnings(capsys)
    plant.write(camera='existing = "baseline"\nrecursive = true')
    assert "records 3 files now" in plant.warnings(capsys)
