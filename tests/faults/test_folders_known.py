"""Cameras that are renamed, paused, or doubled, with the real daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from rigs.daemon import Daemon
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

TOKEN = "operator-token-0123456789"


def _config_of(station: Station, old: str, new: str) -> None:
    text = station.daemon.config.read_text()
    assert old in text
    station.daemon.config.write_text(text.replace(old, new))


@pytest.mark.fault("a known folder under a new camera name")
def test_a_renamed_camera_holds_until_its_past_is_given_to_it_and_nothing_is_judged_again(
    start_station: Callable[..., Station], fault: Any
) -> None:
    station = start_station()
    station.drop(20, "cam1")
    station.settle()
    refused = station.daemon.run("cameras", "rename", "cam1", "left", check=False)
    assert (refused.returncode, "the configuration has no such camera" in refused.stderr) == (78, True)
    _config_of(station, 'name = "cam1"', 'name = "left"')
    refused = station.daemon.run("cameras", "rename", "cam1", "left", check=False)
    assert (refused.returncode, "another edged (process" in refused.stderr) == (1, True)
    station.daemon.stop()
    station.daemon.start(ready=False)
    item = station.wait_health("folder:left", "down")
    assert "recorded as those of camera cam1" in item["cause"]
    assert "edged cameras rename cam1 left" in item["hint"]
    station.folders = {"left": station.folders["cam1"]}
    station.drop(1, "left")  # it waits, too
    assert len(station.rows()) == 20
    station.daemon.stop()
    said = station.daemon.run("cameras", "rename", "cam1", "left").stdout
    assert "20 recorded files of cam1 are left's now" in said
    station.dropped = {("left", *image[1:]): pages for image, pages in station.dropped.items()}
    station.over()
    station.daemon.start()
    wait_until(lambda: len(station.rows()) == 21, 30, "the one new image is judged")
    fault.row(how="name changed, restart; rename; restart", images=21, lost=0, doubled=len(station.rows()) - 21, recovered_s=0.0)


@pytest.mark.fault("a camera paused, kill -9, resumed")
def test_a_paused_camera_survives_a_kill_and_loses_nothing(start_station: Callable[..., Station], fault: Any) -> None:
    station = start_station(cameras=("cam1", "cam2"), daemon=False)
    tokens = station.home / "tokens"
    tokens.write_text(f"operator shift-2 {TOKEN}\n")
    token = station.home / "token"
    token.write_text(TOKEN)
    with station.daemon.config.open("a") as file:
        file.write(f'[http]\ntokens_file = "{tokens}"\n')
    station.daemon.start()
    said = station.daemon.run("cameras", "--token-file", str(token), "pause", "cam1").stdout
    assert said.startswith("camera cam1: paused by shift-2 since 20")
    station.drop(20)
    wait_until(lambda: sum(row.image[0] == "cam2" for row in station.rows()) == 10, 30, "cam2 goes on")
    station.daemon.kill()
    station.daemon.start(ready=False)
    item = station.wait_health("folder:cam1", "degraded")
    assert "paused by shift-2" in item["cause"]
    station.drop(4, "cam2")
    wait_until(lambda: sum(row.image[0] == "cam2" for row in station.rows()) == 14, 30, "cam2 goes on after the restart")
    assert sum(row.image[0] == "cam1" for row in station.rows()) == 0
    station.over()
    assert station.daemon.run("cameras", "--token-file", str(token), "resume", "cam1").stdout == "camera cam1: goes on\n"
    recovered_s = station.settle()
    fault.row(how="POST pause, kill -9 and restart, POST resume", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("two instances on one folder")
def test_a_second_instance_on_the_folder_judges_nothing_until_the_first_is_killed(
    start_station: Callable[..., Station], fault: Any
) -> None:
    station = start_station()
    home = station.home / "second"
    home.mkdir()
    second = Daemon(home, station.daemon.config.read_text().replace('tool = "INSP07"', 'tool = "INSP07"\ninstance = "b"'))
    try:
        second.start(ready=False)
        checks = {check["name"]: check for check in second.get("/readyz", 503)["checks"]}
        wait_until(lambda: second.get("/readyz", 503) is not None, 20, "the second answers")
        station.drop(10)
        station.settle()
        checks = {check["name"]: check for check in second.get("/readyz", 503)["checks"]}
        assert checks["folder:cam1"]["status"] == "down"
        assert f"another edged (process {station.daemon.pid}) watches" in checks["folder:cam1"]["cause"]
        assert second.get("/api/v1/results")["results"] == []
        station.daemon.kill()
        wait_until(lambda: len(second.get("/api/v1/results")["results"]) == 10, 30, "the second takes over")
    finally:
        second.close()
    station.daemon.start()
    station.drop(5)
    recovered_s = station.settle()
    fault.row(how="second daemon, other state_dir; first killed -9", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("killed in the first inventory of a folder", matrix=(1,))
def test_a_first_inventory_that_is_killed_half_way_takes_no_old_file_for_new_and_no_new_one_for_old(
    start_station: Callable[..., Station], fault: Any
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
