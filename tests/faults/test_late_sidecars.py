"""Sidecars that come after the verdict, seen by the running daemon and by one that was down when they came."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station

IDENTITY = """
after = "move"
sidecar_wait_s = 0.0
identity = [{ kind = "sidecar-json" }]
"""
SECOND = """
[[recipe]]
name = "second"
models = ["wafer_pattern"]
"""


def sidecar(image: Path, **fields: Any) -> Path:
    path = image.with_suffix(".json")
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({"lot_id": "L2411A", "wafer_id": "W07", **fields}))
    return aside.rename(path)


def results(station: Station, image: Path) -> list[dict[str, Any]]:
    """The messages that the MES has of an image, by judgement, each id once."""
    found = {arrival.id: arrival.said for arrival in station.mes.results() if arrival.said["data"]["image"]["name"] == image.name}
    return sorted(found.values(), key=lambda said: int(said["data"]["judgement"]))


def identified(station: Station, image: Path, timeout_s: float = 20) -> dict[str, Any]:
    """`data` of the second judgement; what the first had said of the pixels is in it unchanged."""
    wait_until(lambda: len(results(station, image)) == 2, timeout_s, f"{image.name} is decided once more")
    first, second = results(station, image)
    assert (second["data"]["judgement"], second["data"]["supersedes"]) == (1, first["id"])
    assert first["data"]["material"]["complete"] is False
    assert (second["data"]["material"]["lot_id"], second["data"]["material"]["complete"]) == ("L2411A", True)
    data: dict[str, Any] = second["data"]
    return data


@pytest.mark.fault("a sidecar comes late", matrix=())
def test_a_sidecar_that_comes_after_the_verdict_completes_it_once_also_across_a_restart(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(cameras=("cam1",), camera=IDENTITY, toml=SECOND)
    images = station.drop(6)
    station.settle(60)
    wait_until(lambda: not any(image.exists() for image in images), 20, "the images are moved")
    first = {image.name: results(station, image)[0]["data"] for image in images}

    running, other, down, broken, none, away = images
    path = sidecar(running)
    data = identified(station, running)
    was = first[running.name]
    for same in ("defects", "models", "preprocess", "quality", "image", "timing_ms", "frame"):
        assert data[same] == was[same], same
    if was["reason"] == "identity-incomplete":
        assert (data["verdict"], data["reason"]) == ("PASS", "no defect")
    else:
        assert (data["verdict"], data["reason"]) == (was["verdict"], was["reason"])
    wait_until(lambda: not path.exists(), 20, "the sidecar has followed its image")
    assert any(station.folders["cam1"].glob(f".done/*/{path.name}"))
    event = station.mes.wait_for_event("identity-late")
    assert (event["file"], event["lot_id"], event["verdict"]) == (running.name, "L2411A", data["verdict"])

    # Another recipe: a new look at the image, where it lies now.
    sidecar(other, recipe="second")
    data = identified(station, other)
    assert data["rules"].startswith("second@")

    # Half-written: it is waited for.
    half = broken.with_suffix(".json")
    half.write_text('{"lot_id": "L24')
    station.daemon.stop()
    sidecar(down)
    station.daemon.start()
    identified(station, down)
    assert len(results(station, broken)) == 1
    half.write_text(json.dumps({"lot_id": "L2411A", "wafer_id": "W07"}))
    identified(station, broken)

    # Its image is gone for good: what it was said to be can still be completed.
    (moved,) = station.folders["cam1"].glob(f".done/*/{away.name}")
    moved.unlink()
    sidecar(away)
    identified(station, away)

    station.daemon.kill()
    sidecar(running, lot_id="L9999X")
    station.over()
    station.daemon.start()
    recovered_s = station.settle(30)
    assert len(results(station, running)) == 2, "once for each landing"
    assert len(results(station, none)) == 1
    events = [each["file"] for each in station.mes.events("identity-late")]
    assert sorted(events) == sorted(each.name for each in (running, other, down, broken, away))
    fault.row(how="running, down, half-written, another recipe, image gone", tally=station.tally(), recovered_s=recovered_s)
