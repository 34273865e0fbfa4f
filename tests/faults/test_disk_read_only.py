"""The kernel makes the ledger's disk read-only under the daemon: images wait, and go on once it is mounted anew."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.disk import LEDGER, Disk, answers_quickly, stands_still_within
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station


@pytest.mark.fault("state disk read-only", matrix=(13,))
def test_a_disk_that_turns_read_only_is_told_and_got_over_once_it_is_mounted_anew(
    make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64)
    station = start_station(camera='after = "move"', toml=LEDGER, state=disk.folder / "state")
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        disk.make_read_only()
        time.sleep(2)
        said = station.wait_health("ledger", "down")
        assert said["cause"] and said["hint"]
        print(said)
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
