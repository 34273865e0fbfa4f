"""One model is slow, hangs, refuses, lies or is taken away, while Triton itself is well: its own recipe alone suffers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import pytest

from rigs.faults import Fault
from rigs.prints import Prints, recipes_of, seed_of
from rigs.processes import wait_until
from rigs.station import Station

Start = Callable[..., Station]
LATENCY_S = 1.5
"""What an image of the healthy recipe may take, from its file to its verdict, on a machine that others use too."""


def a_station(start_station: Start, home: Path, ill: dict[str, object], triton: str = "") -> tuple[Station, Prints]:
    """The recipes `ill` and `well`, each with a camera of that name."""
    seed = seed_of(home, {"ill": ill, "well": {}})
    cameras = {name: f'recipe = "{name}"' for name in ("ill", "well")}
    station = start_station(cameras=cameras, camera='after = "move"', toml=recipes_of(seed, ["ill", "well"]), triton=triton)
    return station, Prints(station)


def the_other_goes_on(station: Station, prints: Prints, seconds: float, rate_per_s: float = 10) -> float:
    """Feeds the healthy recipe meanwhile; the 95th percentile of its images' latency (s)."""
    names = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        names += prints.drop("well")
        time.sleep(1 / rate_per_s)
    wait_until(lambda: prints.results().keys() >= set(names), 20, "the healthy recipe's images are all judged")
    found = prints.results()
    return quantiles([found[name]["timing_ms"]["total"] / 1000 for name in names], n=20)[-1]


def blame(prints: Prints) -> list[str]:
    return [f"{name}: {data['reason']}" for name, data in prints.results().items() if data["verdict"] == "ERROR"]


@pytest.mark.fault("inference slower than intake", matrix=(31,))
def test_a_slow_model_keeps_its_backlog_in_the_folder_and_takes_nothing_from_another(
    start_station: Start, fault: Fault, tmp_path: Path
) -> None:
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.25, "max_batch_size": 4})
    prints.drop("ill", 400)
    p95 = the_other_goes_on(station, prints, 10)
    left = 400 - sum(row.image[0] == "ill" for row in station.rows())
    assert left > 100, "the slow model was not slow: this proves nothing"
    assert p95 < LATENCY_S, station.daemon.get("/api/v1/status")
    recovered_s = station.settle(60)
    fault.row(how="0.25 s a batch, 400 images at once", tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")
    assert prints.mixed_up() == []
    assert blame(prints) == []


@pytest.mark.fault("a model that hangs on one image", matrix=(29,))
def test_an_image_that_hangs_its_model_is_found_out_and_every_other_is_judged(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path, {}, "deadline_s = 1.0")
    prints.drop("ill", 20)
    (culprit,) = prints.drop("ill", first=253)  # its model sleeps for 4 s whenever it sees it
    prints.drop("ill", 20)
    wait_until(lambda: "hanging" in station.health()["recipe:ill"]["cause"], 15, "health says that the model hangs")
    told = station.health()
    assert told["triton"]["facts"]["circuits_open"] == ["ill:1"]
    assert 'edged_triton_circuit_state{endpoint="local",model="ill",state="closed",version="1"} 0.0' in station.daemon.text("/metrics")
    p95 = the_other_goes_on(station, prints, 10)
    recovered_s = station.settle(90)
    assert p95 < LATENCY_S
    assert [each.partition(":")[0] for each in blame(prints)] == [culprit]
    assert prints.results()[culprit]["reason"] == "model-output"
    assert prints.mixed_up() == []
    fault.row(how="4 s asleep on one of 41", tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")
