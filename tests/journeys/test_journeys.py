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
