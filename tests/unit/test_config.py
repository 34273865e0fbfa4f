"""The sample says the truth, and a wrong configuration says everything that is wrong with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edged.config import Config, load
from edged.config.problems import model_in
from edged.errors import ConfigError

SAMPLE = Path(__file__).parents[2] / "config" / "edged.toml"
KEY = re.compile(r"^(# )?([a-z_]+) = (.+)$")
TABLE = re.compile(r"^(?:# )?\[\[?([a-z_.]+)\]\]?$")


def sample_keys() -> dict[str, dict[str, tuple[bool, str]]]:
    found: dict[str, dict[str, tuple[bool, str]]] = {}
    table = ""
    for line in SAMPLE.read_text().splitlines():
        if match := TABLE.match(line):
            table = match.group(1).replace("codes.particle", "codes")
        elif match := KEY.match(line):
            found.setdefault(table, {})[match.group(2)] = (bool(match.group(1)), match.group(3))
    return found


def sections(model: type[BaseModel], at: str = "") -> dict[str, type[BaseModel]]:
    """Every table of the configuration, by its dotted name."""
    found = {}
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        if inner is None and str(field.annotation).startswith("dict[str, edged"):
            inner = field.annotation.__args__[1]  # type: ignore[union-attr]
        if inner is not None:
            found[f"{at}{name}"] = inner
            found |= sections(inner, f"{at}{name}.")
    return found


def test_the_sample_is_a_valid_configuration() -> None:
    config = load(SAMPLE, environ={})
    assert [camera.name for camera in config.camera] == ["cam1", "maps"]


def test_the_sample_holds_every_key_of_every_section() -> None:
    shown = sample_keys()
    for table, model in sections(Config).items():
        tables = set(sections(model))
        missing = set(model.model_fields) - set(shown.get(table, {})) - tables
        assert not missing, f"[{table}] of the sample lacks {sorted(missing)}"
        assert not set(shown.get(table, {})) - set(model.model_fields), f"[{table}] of the sample has keys the model does not know"


def test_a_commented_value_of_the_sample_is_the_default() -> None:
    models = sections(Config)
    compared = 0
    for table, keys in sample_keys().items():
        for key, (commented, text) in keys.items():
            field = models[table].model_fields[key]
            if not commented or field.is_required() or field.default is None or table in ("camera.identity", "recipe.rules.zone"):
                continue
            shown = models[table].model_validate(
                {**{k: v for k, v in REQUIRED.get(table, {}).items() if k != key}, key: tomllib.loads(f"v = {text}")["v"]}
            )
            assert getattr(shown, key) == field.default, f"[{table}] {key}: the sample shows {text}, the default is {field.default!r}"
            compared += 1
    assert compared > 50


REQUIRED: dict[str, dict[str, Any]] = {
    "camera": {"name": "c", "folder": "/x", "recipe": "r"},
    "recipe": {"name": "r", "models": ["m"]},
    "recipe.reference": {"pattern": "{stem}_t.{ext}"},
}

MINIMAL = '[[camera]]\nname = "cam1"\nfolder = "/tmp/x"\nrecipe = "r"\n[[recipe]]\nname = "r"\nmodels = ["m"]\n'


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    file = tmp_path / "edged.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ or {})
    return [str(problem) for problem in caught.value.problems]


def test_every_typo_is_listed_with_file_key_and_the_key_that_was_meant(tmp_path: Path) -> None:
    found = problems_of(tmp_path, MINIMAL.replace("folder", "foldr") + '[mqtt]\nhots = "x"\nport = 99999999\n')
    text = "\n".join(found)
    assert "camera.0.foldr: unknown key (did you mean 'folder'?)" in text
    assert "camera.0.folder: this key is required" in text
    assert "mqtt.hots: unknown key (did you mean 'host'?)" in text
    assert "mqtt.port:" in text and "99999999" in text
    assert all(problem.startswith(str(tmp_path / "edged.toml")) for problem in found)


def test_a_problem_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    (tmp_path / "edged.toml.d").mkdir()
    (tmp_path / "edged.toml.d" / "10-site.toml").write_text("[mqtt]\nkeepalive_s = 'soon'\n")
    found = problems_of(tmp_path, MINIMAL)
    assert len(found) == 1 and "10-site.toml: mqtt.keepalive_s" in found[0]


def test_drop_ins_win_over_the_file_and_the_environment_over_both(tmp_path: Path) -> None:
    (tmp_path / "edged.toml").write_text(MINIMAL + '[mqtt]\nhost = "a"\nport = 1\n')
    (tmp_path / "edged.toml.d").mkdir()
    (tmp_path / "edged.toml.d" / "10.toml").write_text('[mqtt]\nport = 2\n[[camera]]\nname = "cam2"\nfolder = "/tmp/y"\nrecipe = "r"\n')
    config = load(tmp_path / "edged.toml", environ={"EDGED_MQTT__HOST": "broker.fab", "EDGED_LEDGER__RETAIN_DAYS": "3"})
    assert (config.mqtt.host, config.mqtt.port, config.ledger.retain_days) == ("broker.fab", 2, 3)
    assert [camera.name for camera in config.camera] == ["cam1", "cam2"]


def test_an_environment_variable_with_a_typo_is_named(tmp_path: Path) -> None:
    found = problems_of(tmp_path, MINIMAL, {"EDGED_MQTT__HOTS": "x"})
    assert found == ["environment EDGED_MQTT__HOTS: mqtt.hots: unknown key (did you mean 'host'?)"]


def test_a_missing_file_and_broken_toml_are_one_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "nowhere.toml", environ={})
    assert "not valid TOML" in problems_of(tmp_path, "[[camera]\n")[0]


def test_a_camera_that_names_no_recipe_there_is_refused(tmp_path: Path) -> None:
    assert "names the recipe 'q'" in problems_of(tmp_path, MINIMAL.replace('recipe = "r"', 'recipe = "q"', 1))[0]


def test_an_address_beyond_loopback_needs_tls_and_tokens(tmp_path: Path) -> None:
    assert "reachable from the network" in problems_of(tmp_path, MINIMAL + '[http]\nbind = "0.0.0.0:9180"\n')[0]


def test_rules_that_name_an_unknown_zone_and_bad_patterns_are_refused(tmp_path: Path) -> None:
    assert "unknown zones: edge" in problems_of(tmp_path, MINIMAL + '[[recipe.rules.rule]]\nzones = ["edge"]\n')[0]
    bad = MINIMAL.replace('recipe = "r"\n', 'recipe = "r"\n[[camera.identity]]\nkind = "regex"\npattern = "(?P<lott>x"\n', 1)
    assert "no regular expression" in problems_of(tmp_path, bad)[0]


def test_what_crosses_sections_is_listed_beside_mistyped_fields(tmp_path: Path) -> None:
    rule = '[[recipe.rules.rule]]\nzones = ["edge"]\nverdict = "FALL"\n'
    weights = 'combine = "weighted"\nweights = [1.0, 2.0]\n'
    text = "\n".join(problems_of(tmp_path, MINIMAL.replace('recipe = "r"', 'recipe = "rr"\nmode = "inotfy"', 1) + weights + rule))
    assert "camera.0.recipe: camera cam1 names the recipe 'rr', which is not there; there are r (did you mean 'r'?)" in text
    assert "recipe.0.rules: rules name unknown zones: edge" in text
    assert "recipe.0: combine = weighted needs one weight for each model" in text
    assert "camera.0.mode: this must be 'auto', 'inotify' or 'poll', but it is 'inotfy' (did you mean 'inotify'?)" in text
    assert "recipe.0.rules.rule.0.verdict" in text and "(did you mean 'FAIL'?)" in text
    assert "at least 1" not in text and text.count("\n") == 4


def test_a_problem_between_sections_is_said_once_with_its_key(tmp_path: Path) -> None:
    found = problems_of(tmp_path, MINIMAL.replace('recipe = "r"', 'recipe = "q"', 1))
    assert len(found) == 1 and "camera.0.recipe: " in found[0]
    assert len(problems_of(tmp_path, MINIMAL + '[[recipe.rules.rule]]\nzones = ["edge"]\n')) == 1
    doubled = problems_of(tmp_path, MINIMAL + '[[recipe]]\nname = "r"\nmodels = ["m"]\n')
    assert len(doubled) == 1 and "recipe.1.name: recipe names must differ; doubled: r" in doubled[0]


def test_a_value_of_the_wrong_kind_is_told_what_kind_is_meant(tmp_path: Path) -> None:
    text = "\n".join(problems_of(tmp_path, MINIMAL.replace('["m"]', '"m"') + "[mqtt]\nhost = 5\nport = true\n[models]\nallow_python = 7\n"))
    assert "recipe.0.models: this must be a list, but it is 'm'" in text
    assert "mqtt.host: this must be text, but it is 5" in text
    assert "models.allow_python: this must be true or false, but it is 7" in text
    assert "Input should" not in text


def test_a_section_that_only_the_environment_gives_is_blamed_on_the_environment(tmp_path: Path) -> None:
    found = problems_of(tmp_path, MINIMAL, {"EDGED_NOSUCH__X": "1"})
    assert len(found) == 1 and found[0].startswith("environment EDGED_NOSUCH__X: nosuch: unknown key")


def test_a_table_where_another_file_has_a_list_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "edged.toml.d").mkdir()
    (tmp_path / "edged.toml.d" / "10.toml").write_text('[camera]\nname = "cam2"\n')
    assert "10.toml: camera: this must be a list" in problems_of(tmp_path, MINIMAL)[0]
