"""Triton killed, restarted, frozen, for seconds or for minutes: images wait, none is lost or blamed, and it goes on within 3 s."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.prints import Prints, recipes_of, seed_of
from rigs.processes import wait_until
from rigs.station import Station
from rigs.triton import TritonServer

Start = Callable[..., Station]
BACK_S = 3.0
"""From Triton's having loaded the model again, as it was asked to, to the first verdict."""
THAWED_S = 10.0
"""From SIGCONT to the first verdict: the broken channel is rebuilt, the models are checked anew."""


def a_station(start_station: Start, home: Path, triton: str = "") -> tuple[Station, Prints]:
    seed = seed_of(home, {"prints": {}})
    cameras = {"maps": "", "prints": 'recipe = "prints"'}
    station = start_station(cameras=cameras, camera='after = "move"', toml=recipes_of(seed, ["prints"]), triton=triton)
    return station, Prints(station)


def feed(station: Station, prints: Prints, seconds: float) -> None:
    """Some images a second for both recipes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        prints.drop("prints", 2)
        station.drop(1, "maps")
        time.sleep(0.25)


def away(station: Station, prints: Prints, seconds: float, end: Callable[[], None], again: Callable[[], None]) -> float:
    """Triton goes in the middle of the work and comes back; seconds from its model's being ready to the first new verdict."""
    feed(station, prints, 2)
    end()
    feed(station, prints, 1)
    told = station.wait_health("triton", "down", 15)
    assert "is away" in told["cause"]
    assert told["hint"]
    feed(station, prints, seconds)
    again()
    wait_until(lambda: station.triton.ready("prints__1"), 30, "Triton has loaded the model")
    station.over()
    feed(station, prints, 2)
    return station.settle(60)


def nothing_blamed(station: Station, prints: Prints) -> None:
    assert prints.mixed_up() == []
    assert "ERROR" not in station.tally().verdicts
    assert station.complaints().keys() <= {"gpu", "clock"}


@pytest.mark.fault("Triton killed and back", matrix=(28,))
def test_images_wait_while_a_killed_triton_is_away_and_go_on_when_it_is_back(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path)
    recovered_s = away(station, prints, 5, station.triton.kill, station.triton.start)
    assert recovered_s <= BACK_S
    fault.row(how="kill -9 under load, 5 s away", tally=station.tally(), recovered_s=recovered_s)
    nothing_blamed(station, prints)


@pytest.mark.long
@pytest.mark.fault("Triton restarted", matrix=(28,))
def test_a_triton_that_is_stopped_politely_takes_no_image_with_it(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path)
    recovered_s = away(station, prints, 1, station.triton.stop, station.triton.start)
    assert recovered_s <= BACK_S
    fault.row(how="SIGTERM under load, started again", tally=station.tally(), recovered_s=recovered_s)
    nothing_blamed(station, prints)


@pytest.mark.fault("Triton frozen", matrix=(29,))
def test_a_frozen_triton_is_told_within_its_deadline_and_thawed_it_goes_on(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path, "deadline_s = 2.0")
    try:
        recovered_s = away(station, prints, 6, station.triton.freeze, station.triton.thaw)
    finally:
        station.triton.thaw()
    assert recovered_s <= THAWED_S
    fault.row(how="SIGSTOP for 8 s or more under load, SIGCONT", tally=station.tally(), recovered_s=recovered_s)
    nothing_blamed(station, prints)
    assert station.daemon.get("/api/v1/models")


@pytest.mark.long
@pytest.mark.fault("Triton away for 70 s", matrix=(28,))
def test_after_a_long_outage_the_first_result_comes_within_seconds(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path)
    recovered_s = away(station, prints, 70, station.triton.kill, station.triton.start)
    assert recovered_s <= BACK_S
    fault.row(how="kill -9 under load, 70 s away", tally=station.tally(), recovered_s=recovered_s)
    nothing_blamed(station, prints)


@pytest.mark.long
@pytest.mark.fault("Triton frozen, then killed and started", matrix=(29,))
def test_a_triton_that_never_thaws_is_replaced_and_the_watchdog_was_fed_all_the_while(
    start_station: Start, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the pipeline may stand still (60 s): a peer that is away is no reason to restart the daemon."""
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    with notified(tmp_path / "notify") as (address, feeds):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        station, prints = a_station(start_station, tmp_path, "deadline_s = 2.0")
        began = time.monotonic()
        never_thaws(station, prints, fault)
        ended = time.monotonic()
    times = [began, *[at for at in feeds if began < at < ended], ended]
    assert max(later - at for at, later in itertools.pairwise(times)) < 6


@contextmanager
def notified(path: Path) -> Iterator[tuple[str, list[float]]]:
    """systemd's end of the notify socket, and when the watchdog was fed (monotonic s)."""
    feeds: list[float] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(path))

        def listen() -> None:
            while (said := ear.recv(4096)) != b"end":
                if b"WATCHDOG=1" in said:
                    feeds.append(time.monotonic())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield str(path), feeds
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
                mouth.sendto(b"end", str(path))
            thread.join(5)


def never_thaws(station: Station, prints: Prints, fault: Fault) -> None:

    def replaced(triton: TritonServer = station.triton) -> None:
        triton.kill()
        triton.start()

    recovered_s = away(station, prints, 70, station.triton.freeze, replaced)
    assert recovered_s <= BACK_S
    fault.row(how="SIGSTOP for 70 s under load, killed, started", tally=station.tally(), recovered_s=recovered_s)
    nothing_blamed(station, prints)


@pytest.mark.long
@pytest.mark.fault("late answers after a freeze", matrix=(29,))
def test_no_late_answer_becomes_another_images_verdict_and_blocked_slots_are_told(
    start_station: Start, fault: Fault, tmp_path: Path
) -> None:
    """Two recipes share one model and its 4 slots: frozen, they are with Triton, and whoever waits for one is sent back."""
    seed = seed_of(tmp_path, {"prints": {"cost_s": 0.1, "max_batch_size": 4}, "other": {}})
    cameras = {"one": 'recipe = "prints"', "two": 'recipe = "again"'}
    toml = recipes_of(seed, ["prints", "other"]) + '[[recipe]]\nname = "again"\nmodels = ["prints"]\n[decode]\nslots = 4\n'
    station = start_station(cameras=cameras, camera='after = "move"', toml=toml, triton="deadline_s = 1.0")
    prints = Prints(station)
    for camera in cameras:
        prints.drop(camera, 60)
    wait_until(lambda: len(station.rows()) > 10, 20, "some are judged")
    station.triton.freeze()
    try:
        wait_until(lambda: "unanswered" in station.health()["triton"]["cause"], 10, "health says that Triton owes answers")
        told = station.wait_health("triton", "down", 10)
        blocked = told["facts"]["blocked_slots"]
        assert blocked > 0
        assert f'edged_triton_blocked_slots{{endpoint="local"}} {blocked:.1f}' in station.daemon.text("/metrics")
        wait_until(lambda: station.daemon.get("/api/v1/status")["queues"]["under_way"] == 0, 10, "no image hangs in the pipeline")
        taken = station.daemon.get("/api/v1/status")["queues"]["slots_taken"]
        assert taken == station.health()["triton"]["facts"]["blocked_slots"] > 0, "nobody else may have a slot that Triton may still read"
        for camera in cameras:
            prints.drop(camera, 20)
        time.sleep(3)
    finally:
        station.triton.thaw()
    station.over()
    recovered_s = station.settle(60)
    assert prints.mixed_up() == []
    fault.row(how=f"SIGSTOP with {blocked} of 4 slots in its hands, SIGCONT", tally=station.tally(), recovered_s=recovered_s)
    wait_until(lambda: station.health()["triton"]["facts"]["blocked_slots"] == 0, 10, "every slot came back")
    nothing_blamed(station, prints)


@pytest.mark.long
@pytest.mark.fault("Triton gone with slots in its hands", matrix=(29, 44))
def test_with_slots_blocked_and_triton_gone_nothing_crashes_and_no_image_hangs(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    station, prints = a_station(start_station, tmp_path, "deadline_s = 1.0")
    feed(station, prints, 1)
    station.triton.freeze()
    try:
        feed(station, prints, 2)
        station.wait_health("triton", "down", 15)
        station.triton.kill()
    finally:
        if station.triton.running:
            station.triton.thaw()
    feed(station, prints, 2)
    told = station.health()["triton"]
    assert told["facts"]["blocked_slots"] > 0
    assert "blocked until Triton answers or restarts" in told["cause"]
    assert station.daemon.text("/livez")
    assert station.daemon.get("/api/v1/status")["queues"]["under_way"] == 0
    station.triton.start()
    station.over()
    recovered_s = station.settle(60)
    fault.row(how="SIGSTOP under load, then kill -9, started", tally=station.tally(), recovered_s=recovered_s)
    wait_until(lambda: station.health()["triton"]["facts"]["blocked_slots"] == 0, 10, "every slot came back")
    nothing_blamed(station, prints)
