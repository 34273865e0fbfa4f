"""Cameras that are doubled, paused, or renamed, with the real daemon. One station goes through them all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rigs.daemon import Daemon
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

TOKEN = "operator-token-0123456789"


def _judged(station: Station, camera: str) -> int:
    return sum(row.image[0] == camera for row in station.rows())


def _second_instance(station: Station, fault: Fault) -> None:
    """It judges nothing until the first is killed."""
    home = station.home / "second"
    home.mkdir()
    second = Daemon(home, station.daemon.config.read_text().replace('tool = "INSP07"', 'tool = "INSP07"\ninstance = "b"'))
    try:
        second.start(ready=False)
        wait_until(lambda: second.get("/readyz", 503) is not None, 20, "the second answers")
        station.drop(20)
        station.settle()
        checks = {check["name"]: check for check in second.get("/readyz", 503)["checks"]}
        assert checks["folder:cam1"]["status"] == "down"
        assert f"another edged (process {station.daemon.pid}) watches" in checks["folder:cam1"]["cause"]
        assert second.get("/api/v1/results")["results"] == []
        station.daemon.kill()
        wait_until(lambda: len(second.get("/api/v1/results")["results"]) == 20, 30, "the second takes over")
    finally:
        second.close()
    station.over()
    station.daemon.start()
    station.drop(5)
    recovered_s = station.settle()
    how = "second daemon, other state_dir; first killed -9"
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, fault="two instances on one folder")


def _paused(station: Station, token: Path, fault: Fault) -> None:
    """It stays so across a kill."""
    said = station.daemon.run("cameras", "--token-file", str(token), "pause", "cam1").stdout
    assert said.startswith("camera cam1: paused by shift-2 since 20")
    first, second = _judged(station, "cam1"), _judged(station, "cam2")
    station.drop(20)
    wait_until(lambda: _judged(station, "cam2") == second + 10, 30, "cam2 goes on")
    station.daemon.kill()
    station.daemon.start(ready=False)
    item = station.wait_health("folder:cam1", "degraded")
    assert "paused by shift-2" in item["cause"]
    station.drop(4, "cam2")
    wait_until(lambda: _judged(station, "cam2") == second + 14, 30, "cam2 goes on after the restart")
    assert _judged(station, "cam1") == first
    station.over()
    assert station.daemon.run("cameras", "--token-file", str(token), "resume", "cam1").stdout == "camera cam1: goes on\n"
    recovered_s = station.settle()
    how = "POST pause, kill -9 and restart, POST resume"
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, fault="a camera paused, kill -9, resumed")


def _renamed(station: Station, fault: Fault) -> None:
    """It holds until its past is given to it, and nothing is judged again."""
    config, there = station.daemon.config, _judged(station, "cam1")
    refused = station.daemon.run("cameras", "rename", "cam1", "left", check=False)
    assert (refused.returncode, "the configuration has no such camera" in refused.stderr) == (78, True)
    config.write_text(config.read_text().replace('name = "cam1"', 'name = "left"'))
    refused = station.daemon.run("cameras", "rename", "cam1", "left", check=False)
    assert (refused.returncode, "another edged (process" in refused.stderr) == (1, True)
    station.daemon.stop()
    station.daemon.start(ready=False)
    item = station.wait_health("folder:left", "down")
    assert "recorded as those of camera cam1" in item["cause"]
    assert "edged cameras rename cam1 left" in item["hint"]
    station.folders = {**station.folders, "left": station.folders["cam1"]}
    station.drop(1, "left")  # it waits, too
    assert (_judged(station, "cam1"), _judged(station, "left")) == (there, 0)
    station.daemon.stop()
    said = station.daemon.run("cameras", "rename", "cam1", "left").stdout
    assert f"{there} recorded files of cam1 are left's now" in said
    station.dropped = {(image[0].replace("cam1", "left"), *image[1:]): pages for image, pages in station.dropped.items()}
    station.over()
    station.daemon.start()
    recovered_s = station.settle()
    how = "name changed, restart; edged cameras rename; restart"
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, fault="a known folder under a new camera name")


@pytest.mark.fault("cameras doubled, paused, renamed")
def test_no_image_is_judged_twice_or_missed_when_a_camera_is_doubled_paused_or_renamed(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), daemon=False)
    tokens, token = station.home / "tokens", station.home / "token"
    tokens.write_text(f"operator shift-2 {TOKEN}\n")
    token.write_text(TOKEN)
    with station.daemon.config.open("a") as file:
        file.write(f'[http]\ntokens_file = "{tokens}"\n')
    station.daemon.start()
    _second_instance(station, fault)
    _paused(station, token, fault)
    _renamed(station, fault)


@pytest.mark.fault("killed in the first inventory of a folder", matrix=(1,))
def test_a_first_inventory_that_is_killed_half_way_takes_no_old_file_for_new_and_no_new_one_for_old(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(camera='existing = "baseline"', daemon=False)
    folder, old = station.folders["cam1"], 2500
    for number in range(old):
        (folder / f"old{number}.png").write_bytes(wafer_map(600_000))
    station.daemon.variables["EDGED_FAILPOINTS"] = "intake.baselined=kill"
    station.daemon.start(wait=False)
    assert station.daemon.wait(60) == -9, station.daemon.said()
    station.daemon.variables.clear()
    station.drop(10)
    for path in folder.glob("*.png"):  # what is new brings the time of another day, as copies do
        if not path.name.startswith("old"):
            os.utime(path, (1e9, 1e9))
    station.over()
    station.daemon.start()
    recovered_s = station.settle(60)
    wait_until(lambda: "intake.baselined" in station.daemon.said(), 60, "the inventory is made")
    assert len(station.rows()) == 10
    trace = station.daemon.get(f"/api/v1/trace?name=old{old - 1}.png")["entries"]
    assert "first start" in str(trace)
    fault.row(how=f"kill -9 after 1,000 of {old:,} old files", tally=station.tally(), recovered_s=recovered_s)
