"""The disk of the ledger full, by bytes and by inodes: images wait in their folders, everybody is told, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.disk import Disk, answers_quickly, at_work, stands_still_within
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station


@pytest.mark.parametrize("kind", ["ext4", pytest.param("tmpfs", marks=pytest.mark.long)])
@pytest.mark.fault("disk full", matrix=(11,))
def test_a_full_disk_stops_intake_and_nothing_else(
    kind: str, make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64, kind)
    station = at_work(start_station, disk)
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        disk.fill()
        recorded = stands_still_within(station, 2)
        assert station.wait_health("disk", "down")["hint"]
        wait_until(lambda: len(station.mes.results()) == recorded, 10, "what is recorded is delivered although the disk is full")
        answers_quickly(station)
        station.over()
        disk.empty()
        wait_until(lambda: len(station.rows()) > recorded, 20, "images are judged again")
    recovered_s = station.settle()
    assert station.wait_health("disk", "ok")
    # On a busy machine the other program may have taken the ballast's room too; then both events come when there is room again.
    wait_until(lambda: station.mes.events("disk")[-1:] != [] and station.mes.events("disk")[-1]["state"] == "ok", 10, "the MES hears of it")
    assert station.mes.events("disk")[0]["state"] in ("short", "full", "unwritable")
    assert station.daemon.pid == pid and station.daemon.running
    assert (disk.folder / "state" / "ballast").exists()
    fault.row(how=f"{kind} filled to the last byte", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.long
@pytest.mark.fault("no inode left", matrix=(13,))
def test_a_disk_without_inodes_stops_intake_and_nothing_else(
    make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64, inodes=256)
    station = at_work(start_station, disk)
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        disk.fill_inodes()
        recorded = stands_still_within(station, 2)
        assert "inodes" in station.wait_health("disk", "down")["cause"]
        wait_until(lambda: len(station.mes.results()) == recorded, 10, "what is recorded is delivered")
        assert station.mes.wait_for_event("disk")["state"] == "inodes"
        answers_quickly(station)
        station.over()
        disk.empty()
        wait_until(lambda: len(station.rows()) > recorded, 20, "images are judged again")
    recovered_s = station.settle()
    assert station.wait_health("disk", "ok")
    assert station.daemon.pid == pid and station.daemon.running
    fault.row(how="ext4 with 256 inodes, all taken", tally=station.tally(), recovered_s=recovered_s)
