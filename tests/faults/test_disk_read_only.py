"""The kernel makes the ledger's disk read-only under the daemon: images wait, and go on once it is mounted anew."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.disk import Disk, answers_quickly, at_work
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station


@pytest.mark.fault("state disk read-only", matrix=(13,))
def test_a_disk_that_turns_read_only_is_told_and_got_over_once_it_is_mounted_anew(
    make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64)
    station = at_work(start_station, disk)
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        disk.make_read_only()
        time.sleep(2)
        said = station.wait_health("ledger", "down")
        assert said["cause"] and said["hint"]
        answers_quickly(station)
        time.sleep(3)
        answers_quickly(station)
        assert station.daemon.running
        station.over()
        disk.mount_anew()
        wait_until(lambda: station.health()["ledger"]["status"] == "ok", 10, "the ledger is well again")
    recovered_s = station.settle()
    assert station.daemon.pid == pid and station.daemon.running
    wait_until(lambda: len(station.mes.events("disk")) >= 2, 10, "the MES hears of both changes")
    assert [event["state"] for event in station.mes.events("disk")][:2] == ["unwritable", "ok"]
    fault.row(how="ext4 error: read-only at once, then mounted anew", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.parametrize("how", [pytest.param("full to the last byte", marks=pytest.mark.long), "read-only"])
@pytest.mark.fault("start on a disk that cannot be written", matrix=(13,))
def test_a_start_on_a_disk_that_cannot_be_written_waits_for_it_and_makes_no_circles(
    how: str, make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64)
    station = at_work(start_station, disk)
    station.drop(30)
    station.daemon.kill()
    (disk.folder / "state" / "ballast").unlink()
    if how == "read-only":
        disk.make_read_only()
    else:
        disk.fill()
    station.daemon.start(wait=False)
    station.drop(10)
    if how == "read-only":
        wait_until(lambda: '"daemon.waits"' in station.daemon.said(), 20, "the daemon says that it waits")
    time.sleep(5)
    assert station.daemon.running, station.daemon.said()
    assert station.daemon.said().count('"daemon.waits"') <= 1, "one warning for one cause"
    station.over()
    if how == "read-only":
        disk.mount_anew()
    else:
        disk.empty()
    recovered_s = station.settle()
    assert station.wait_health("disk", "ok") and station.daemon.running
    fault.row(how=f"{how}, then started", tally=station.tally(), recovered_s=recovered_s)
