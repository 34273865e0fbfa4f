"""One model is slow, hangs, refuses, lies or is taken away, while Triton itself is well: its own recipe alone suffers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

import pytest

from edged.inference.package_files import MAX_QUEUE_SIZE
from rigs.faults import Fault
from rigs.prints import Crowd, Prints, recipes_of, requests_at, seed_of
from rigs.processes import wait_until
from rigs.station import Station

Start = Callable[..., Station]
MINUTES = 6
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


def asked_of(station: Station, model: str) -> int:
    """Requests with images that edged has sent to the model."""
    return sum(each["requests"] for each in station.daemon.get("/api/v1/models")["models"] if each["name"] == model and "requests" in each)


def blame(prints: Prints) -> list[str]:
    return [f"{name}: {data['reason']}" for name, data in prints.results().items() if data["verdict"] == "ERROR"]


@pytest.mark.fault("inference slower than intake", matrix=(31,))
def test_a_slow_model_keeps_its_backlog_in_the_folder_and_takes_nothing_from_another(
    start_station: Start, fault: Fault, tmp_path: Path
) -> None:
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.25, "max_batch_size": 4})
    prints.drop("ill", 240)
    p95 = the_other_goes_on(station, prints, 6)
    left = 240 - sum(row.image[0] == "ill" for row in station.rows())
    assert left > 50, "the slow model was not slow: this proves nothing"
    assert p95 < LATENCY_S, station.daemon.get("/api/v1/status")
    recovered_s = station.settle(60)
    fault.row(how="0.25 s a batch, 240 images at once", tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")
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
    p95 = the_other_goes_on(station, prints, 6)
    recovered_s = station.settle(120)
    assert p95 < LATENCY_S
    assert [each.partition(":")[0] for each in blame(prints)] == [culprit]
    assert prints.results()[culprit]["reason"] == "model-output"
    assert prints.mixed_up() == []
    fault.row(how="4 s asleep on one of 41", tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")


@pytest.mark.long
@pytest.mark.fault("a model unloaded by somebody else", matrix=(30,))
def test_a_model_unloaded_behind_our_back_is_loaded_again_and_no_image_is_blamed(
    start_station: Start, fault: Fault, tmp_path: Path
) -> None:
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.05})
    prints.drop("ill", 60)
    for _ in range(3):
        prints.drop("ill", 20)
        station.triton.post("v2/repository/models/ill__1/unload")
        time.sleep(0.7)
    station.over()
    p95 = the_other_goes_on(station, prints, 3)
    recovered_s = station.settle(60)
    assert p95 < LATENCY_S
    assert station.triton.ready("ill__1")
    fault.row(how="unloaded 3 times through Triton's API under load", tally=station.tally(), recovered_s=recovered_s)
    assert prints.mixed_up() == []
    assert blame(prints) == []


WRONG = """
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        rows = [pb.get_input_tensor_by_name(request, "image").shape()[0] for request in requests]
        return [pb.InferenceResponse([pb.Tensor("{name}", np.full((n, {columns}), {value}, np.float32))]) for n in rows]
"""


@pytest.mark.parametrize(
    ("how", "name", "columns", "value", "said"),
    [
        pytest.param("of another output name", "logits", 3, 0.5, "no output scores", marks=pytest.mark.long),
        pytest.param("of another shape", "scores", 5, 0.5, "1, 5]", marks=pytest.mark.long),
        ("that answers NaN", "scores", 3, "np.nan", "golden image"),
    ],
)
@pytest.mark.fault("a model replaced by a wrong one", matrix=(30,))
def test_a_model_replaced_by_a_wrong_one_holds_its_recipe_and_blames_no_image(
    start_station: Start, fault: Fault, tmp_path: Path, how: str, name: str, columns: int, value: object, said: str
) -> None:
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.02})
    folder = station.triton.repository / "ill__1"
    was = {path: path.read_text() for path in (folder / "config.pbtxt", folder / "1/model.py")}
    prints.drop("ill", 20)
    wait_until(lambda: len(prints.results()) >= 10, 20, "half of them are judged")
    config = was[folder / "config.pbtxt"].replace('name: "scores"', f'name: "{name}"').replace("dims: [ 3 ]", f"dims: [ {columns} ]")
    replace(folder / "config.pbtxt", config)
    replace(folder / "1/model.py", WRONG.format(name=name, columns=columns, value=value))
    station.triton.load("ill__1")
    prints.drop("ill", 20)
    try:
        wait_until(lambda: said in station.health()["recipe:ill"]["cause"], 20, f"health says {said}")
    except AssertionError:
        raise AssertionError((station.health()["recipe:ill"], station.daemon.said()[-3000:])) from None
    assert station.health()["recipe:ill"]["status"] == "down"
    before = requests_at(station.triton, "ill__1")
    p95 = the_other_goes_on(station, prints, 5)
    asked = requests_at(station.triton, "ill__1") - before
    assert asked <= 5, f"{asked} requests in 5 s: a storm"
    for path, text in was.items():
        replace(path, text)
    station.over()
    recovered_s = station.settle(60)
    assert p95 < LATENCY_S
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")
    assert prints.mixed_up() == []
    assert blame(prints) == []


def replace(path: Path, text: str) -> None:
    """As a new version comes: a new file under the old name, which Triton sees at the next load."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(text)
    aside.rename(path)


@pytest.mark.long
@pytest.mark.fault("NaN for one image", matrix=(30,))
def test_nan_for_one_image_is_its_own_error_while_the_golden_images_pass(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.02})
    prints.drop("ill", 20)
    bad = prints.drop("ill", first=251) + prints.drop("ill", first=252)
    prints.drop("ill", 20)
    recovered_s = station.settle(60)
    fault.row(how="NaN for one of 42, an error of the model for another", tally=station.tally(), recovered_s=recovered_s)
    found = prints.results()
    assert {name for name, data in found.items() if data["verdict"] == "ERROR"} == set(bad)
    assert {found[name]["reason"] for name in bad} == {"model-output"}
    assert prints.mixed_up() == []


@pytest.mark.long
@pytest.mark.fault("Triton's queue full", matrix=(30,))
def test_a_full_queue_of_triton_makes_images_wait_and_not_fail(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    """Somebody else keeps the model's queue full; edged asks again once in a while, and goes on when there is room."""
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.5})
    config = station.triton.repository / "ill__1/config.pbtxt"
    replace(config, config.read_text().replace(f"max_queue_size: {MAX_QUEUE_SIZE}", "max_queue_size: 1"))
    station.triton.load("ill__1")
    with Crowd(station.triton, "ill__1"):
        prints.drop("ill", 40)
        wait_until(lambda: station.health()["recipe:ill"]["status"] == "down", 20, "health says that the model refuses")
        assert "maximum queue size" in station.health()["recipe:ill"]["cause"]
        before = asked_of(station, "ill")
        p95 = the_other_goes_on(station, prints, 6)
        asked = asked_of(station, "ill") - before
    station.over()
    assert asked <= 6, f"{asked} requests in 6 s: a storm"
    recovered_s = station.settle(60)
    assert p95 < LATENCY_S
    fault.row(how="max_queue_size 1, others fill it", tally=station.tally(), recovered_s=recovered_s, note=f"others' p95 {p95:.2f} s")
    assert prints.mixed_up() == []
    assert blame(prints) == []


@pytest.mark.long
@pytest.mark.fault("inference slower than intake for minutes", matrix=(31,))
def test_a_backlog_that_grows_for_minutes_grows_in_the_folder_and_not_in_memory(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    """More wait than are ever held in memory (intake looks at 4096 files at once), and more come than the model manages: 25 a second."""
    station, prints = a_station(start_station, tmp_path, {"cost_s": 0.16, "max_batch_size": 4})
    prints.drop("ill", 4500)
    rss: list[int] = []
    end = time.monotonic() + MINUTES * 60
    while time.monotonic() < end:
        due = time.monotonic() + 1
        prints.drop("ill", 30)
        prints.drop("well", 2)
        rss.append(rss_bytes(station.daemon.pid))
        time.sleep(max(0.0, due - time.monotonic()))
    backlog = len(list(station.folders["ill"].glob("*.png")))
    assert backlog > 500, "the model was not slow: this proves nothing"
    part = len(rss) // 3
    settled, last = max(rss[part : 2 * part]), max(rss[-part:])
    station.over()
    recovered_s = station.settle(900)
    growth = last / settled - 1
    assert growth < 0.1, [value >> 20 for value in rss[::30]]
    fault.row(
        how=f"30/s into a model of 25/s for {MINUTES} min, backlog {backlog}",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"RSS {last >> 20} MiB, {growth:+.1%} from the second to the last third",
    )
    assert prints.mixed_up() == []
    assert blame(prints) == []


def rss_bytes(pid: int) -> int:
    """Of the daemon itself, without its decoder processes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
