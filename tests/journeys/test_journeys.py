"""Real images through the whole daemon, on the real Triton, broker and ledger; each folder of `cases/` is one journey.

A case holds `camera.toml` (one camera's table; its folder and name are set here, `recipe` tables of its own may follow), `drop/` (what the
camera PC drops, or `files.txt`: paths below tests/data) and `expected.json`: a list of what the MES must get, each entry a part of `data`.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rigs.daemon import Daemon
from rigs.mosquitto import Broker, BrokerOptions, Listener
from rigs.processes import wait_until
from rigs.triton import TritonServer, _require_triton

CASES = Path(__file__).parent / "cases"
DATA = Path(__file__).parents[1] / "data"
NAMES = sorted(folder.name for folder in CASES.iterdir() if (folder / "expected.json").exists())

HEAD = """
[station]
enterprise = "acme"
site = "fab2"
area = "litho"
tool = "INSP07"
[triton]
endpoints = ["{triton}"]
[mqtt]
port = {port}
"""


class Rig:
    """One daemon with a camera for each case, and the MES's ear at the broker."""

    def __init__(self, daemon: Daemon, mes: Listener, folders: dict[str, Path]) -> None:
        self.daemon, self.mes, self.folders = daemon, mes, folders

    def results(self, camera: str) -> list[dict[str, Any]]:
        topic = f"/edged/v1/result/{camera}/"
        return [json.loads(message.payload) for message in self.mes.messages if topic in message.topic]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    _require_triton()
    home = tmp_path_factory.mktemp("journeys")
    broker = Broker(tmp_path_factory.mktemp("mosquitto"), BrokerOptions())
    broker.start()
    mes = broker.listen("acme/#")
    folders = {name: home / "drop" / name for name in NAMES}
    tables = []
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        text = (CASES / name / "camera.toml").read_text()
        tables.append(f'[[camera]]\nname = "{name}"\nfolder = "{folder}"\n{text.replace("CASE", name)}')
    daemon = Daemon(home, "")
    triton = TritonServer(daemon.state / "models", home / "triton.log")
    triton.repository.mkdir(parents=True)
    try:
        triton.start()
        daemon.config.write_text(HEAD.format(triton=triton.grpc, port=broker.port) + "\n".join(tables))
        daemon.start()
        yield Rig(daemon, mes, folders)
    finally:
        daemon.close()
        triton.kill()
        broker.close()


def matches(expected: Any, found: Any) -> bool:
    """Whether `expected` is part of `found`: objects by key, lists item by item, numbers within 2 % or 0.02."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(key in found and matches(value, found[key]) for key, value in expected.items())
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) >= len(expected) and all(map(matches, expected, found))
    if isinstance(expected, float):
        return isinstance(found, int | float) and abs(found - expected) <= max(0.02, 0.02 * abs(expected))
    return bool(expected == found)


@pytest.mark.parametrize("case", NAMES)
def test_an_image_dropped_in_a_folder_reaches_the_plant_as_the_verdict_it_deserves(rig: Rig, case: str) -> None:
    expected = json.loads((CASES / case / "expected.json").read_text())
    for source in files_of(case):
        # As a careful camera PC does: written elsewhere, then renamed into place.
        part = rig.folders[case] / f".{source.name}.part"
        shutil.copyfile(source, part)
        part.rename(rig.folders[case] / source.name)
    wait_until(lambda: len(rig.results(case)) >= len(expected), 30, f"{len(expected)} results of {case}")
    found = [message["data"] for message in rig.results(case)]
    unmatched = [item for item in expected if not any(matches(item, data) for data in found)]
    assert not unmatched, f"expected {unmatched}\nfound {json.dumps(found, indent=1)[:4000]}\n{rig.daemon.said()[-1500:]}"
    assert len(found) == len(expected)


def files_of(case: str) -> list[Path]:
    listed = CASES / case / "files.txt"
    if listed.exists():
        return [DATA / line.strip() for line in listed.read_text().splitlines() if line.strip()]
    return sorted((CASES / case / "drop").iterdir())


def test_every_case_is_a_valid_camera() -> None:
    for name in NAMES:
        tomllib.loads("[[camera]]\n" + (CASES / name / "camera.toml").read_text())


def results_of(rig: Rig, case: str, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(rig.results(case)) >= count, 30, f"{count} results of {case}")
    return rig.results(case)


def test_the_same_content_under_another_name_is_judged_too_and_says_whose_duplicate_it_is(rig: Rig) -> None:
    first, second = results_of(rig, "duplicate", 2)
    assert first["data"]["duplicate_of"] is None
    assert second["data"]["duplicate_of"] == first["id"]
    assert first["id"] != second["id"]


def test_a_judged_file_is_moved_to_the_folder_of_its_day_when_the_camera_says_so(rig: Rig) -> None:
    results_of(rig, "moved", 1)
    wait_until(lambda: not (rig.folders["moved"] / "L2_W1.png").exists(), 10, "the file has left its folder")
    assert len(list((rig.folders["moved"] / ".done").glob("????-??-??/L2_W1.png"))) == 1


def test_a_file_that_is_kept_is_never_judged_twice(rig: Rig) -> None:
    before = len(results_of(rig, "wafer-patterns", 9))
    kept = next(rig.folders["wafer-patterns"].glob("*.png"))
    kept.touch()
    rig.daemon.stop()
    rig.daemon.start()
    wait_until(lambda: all(c["waiting"] == 0 for c in rig.daemon.get("/api/v1/status")["cameras"]), 20, "nothing waits")
    assert len({message["id"] for message in rig.results("wafer-patterns")}) == before


def test_every_result_on_the_wire_fits_the_published_schema_and_the_sequence_has_no_hole(rig: Rig) -> None:
    schema = json.loads(rig.daemon.run("schema", "--json").stdout)
    messages = [json.loads(message.payload) for message in rig.mes.messages if "/v1/result/" in message.topic]
    assert len(messages) >= 15
    for message in messages:
        jsonschema.Draft202012Validator(schema).validate(message)
    assert sorted({int(message["sequence"]) for message in messages}) == list(range(1, len({m["id"] for m in messages}) + 1))


def test_the_plant_sees_the_instance_online_and_offline_again(rig: Rig) -> None:
    def states() -> list[bool]:
        return [json.loads(message.payload)["online"] for message in rig.mes.messages if message.topic.endswith("/v1/state")]

    assert states()[-1] is True
    assert rig.daemon.stop() == 0
    wait_until(lambda: states()[-1] is False, 10, "the plant is told that the instance goes")
    rig.daemon.start()


def test_infer_says_of_a_file_what_the_message_said(rig: Rig) -> None:
    case = CASES / "wafer-patterns" / "drop"
    answer = rig.daemon.run("infer", "--json", "--camera", "wafer-patterns", *map(str, sorted(case.iterdir())))
    said = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [Path(line["file"]).name for line in said] == sorted(file.name for file in case.iterdir())
    published = {m["data"]["image"]["name"]: m["data"] for m in rig.results("wafer-patterns")}
    for line in said:
        message = published[line["image"]["name"]]
        assert line["verdict"] == message["verdict"]
        assert line["models"][0]["scores"] == pytest.approx(message["models"][0]["scores"], abs=0.01)


def test_a_defect_lies_where_it_was_drawn_in_pixels_of_the_page_and_in_micrometres_of_the_die(rig: Rig) -> None:
    found = next(m["data"] for m in results_of(rig, "dies", 4) if m["data"]["image"]["name"] == "L2411A_02_2_-3_3.jpg")
    scratch = found["defects"][0]
    assert overlap(scratch["box_px"], [59, 12, 240, 124]) > 0.7
    assert scratch["size_um"] == pytest.approx([side * 0.5 for side in scratch["box_px"][2:]], abs=0.5)
    tiled = results_of(rig, "tiled", 1)[0]["data"]["defects"][0]
    assert overlap(tiled["box_px"], [640 + 409, 47, 125, 126]) > 0.7


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_trace_tells_one_files_timeline_and_status_that_all_is_well(rig: Rig) -> None:
    told = rig.daemon.run("trace", "nameless.png", "--json")
    what = [entry["what"] for entry in json.loads(told.stdout)["entries"]]
    assert what[0] == "seen"
    assert {"judged", "recorded"} <= set(what)
    assert rig.daemon.run("trace", "never-dropped.png", check=False).returncode == 1
    status = rig.daemon.run("status", check=False)
    assert status.stdout.startswith("OK"), status.stdout


def test_identify_shows_how_names_parse_before_go_live(rig: Rig) -> None:
    told = rig.daemon.run("identify", "--camera", "wafer-patterns", "--json", "LOT7_W03.png", "strange.png", check=False)
    good, bad = (json.loads(line) for line in told.stdout.splitlines())
    assert (good["lot_id"], good["wafer_id"], good["complete"]) == ("LOT7", "W03", True)
    assert bad["complete"] is False
    assert told.returncode == 1
