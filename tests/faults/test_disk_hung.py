"""The disk of the ledger hangs: every write blocks in the kernel, no signal helps. The alarm must not wait for it, nor the loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.disk import Disk, answers_quickly, at_work
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station


# The long one outlasts what /livez (30 s) and the watchdog (60 s) let a pipeline stand still.
@pytest.mark.parametrize("seconds", [15, pytest.param(75, marks=pytest.mark.long)])
@pytest.mark.fault("state disk hangs", matrix=(14,))
def test_a_disk_that_hangs_is_told_while_status_answers_and_goes_on_when_it_thaws(
    seconds: int, make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64)
    station = at_work(start_station, disk)
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        with disk.frozen():
            began = time.monotonic()
            said = station.wait_health("ledger", "down", 30)
            assert "has not answered" in said["cause"] and said["hint"]
            told_s = time.monotonic() - began
            answers_quickly(station)
            assert any("has not answered" in (camera["held"] or "") for camera in station.daemon.get("/api/v1/status")["cameras"])
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            answers_quickly(station)
            station.over()
        wait_until(lambda: station.health()["ledger"]["status"] == "ok", 10, "the ledger is well again")
    recovered_s = station.settle()
    assert station.daemon.pid == pid and station.daemon.running
    wait_until(lambda: len(station.mes.events("disk")) >= 2, 10, "the MES hears of both changes")
    assert [event["state"] for event in station.mes.events("disk")][:2] == ["stalled", "ok"]
    fault.row(
        how=f"fsfreeze, {seconds} s", tally=station.tally(), recovered_s=recovered_s, note=f"alarm after {told_s:.0f} s", ok=told_s < 30
    )


@pytest.mark.fault("state disk hangs, and the broker restarts", matrix=(14, 24))
def test_a_broker_that_restarts_while_the_disk_hangs_is_told_and_met_again(
    make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64)
    station = at_work(start_station, disk)
    with station.feeding(20):
        station.broker.freeze()
        time.sleep(1)  # now messages are on their way
        with disk.frozen():
            station.broker.stop()
            station.wait_health("broker", "down", 15)
            station.broker.start()
            began = time.monotonic()
            station.wait_health("broker", "ok", 30)
            met_s = time.monotonic() - began
            station.wait_health("ledger", "down", 30)
            station.over()
        wait_until(lambda: station.health()["ledger"]["status"] == "ok", 10, "the ledger is well again")
    recovered_s = station.settle()
    fault.row(how="fsfreeze, and a restart", tally=station.tally(), recovered_s=recovered_s, note=f"connected in {met_s:.1f} s")
