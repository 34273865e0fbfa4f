"""The disk of the ledger full, by bytes and by inodes: images wait in their folders, everybody is told, nothing is lost."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import pytest

from rigs.disk import Disk
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station

LEDGER = """
[ledger]
min_free_bytes = 4000000
"""


def answers_quickly(station: Station) -> None:
    """Health and status come from memory: no disk may hold them up."""
    for path in ("/livez", "/api/v1/status"):
        began = time.monotonic()
        with urllib.request.urlopen(station.daemon.url + path, timeout=5) as answer:
            answer.read()
            assert answer.status == 200
        assert time.monotonic() - began < 1


def stands_still_within(station: Station, seconds: float) -> int:
    """How many are recorded, once nothing more is; called when the fault has begun."""
    time.sleep(seconds)
    before = len(station.rows())
    time.sleep(1.5)
    assert len(station.rows()) == before, f"images are still judged {seconds:g} s after the disk was full"
    return before


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
@pytest.mark.fault("disk full", matrix=(11,))
def test_a_full_disk_stops_intake_and_nothing_else(
    kind: str, make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(64, kind)
    station = start_station(camera='after = "move"', toml=LEDGER, state=disk.folder / "state")
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        disk.fill()
        recorded = stands_still_within(station, 2)
        assert station.wait_health("disk", "down")["hint"]
        wait_until(lambda: len(station.mes.results()) == recorded, 10, "what is recorded is delivered although the disk is full")
        wait_until(lambda: any(said["state"] in ("short", "full") for said in station.mes.events("disk")), 10, "the MES hears of it")
        answers_quickly(station)
        station.over()
        disk.empty()
        wait_until(lambda: len(station.rows()) > recorded, 20, "images are judged again")
    recovered_s = station.settle()
    assert station.wait_health("disk", "ok")
    wait_until(lambda: station.mes.events("disk")[-1]["state"] == "ok", 10, "the MES hears that the disk is well")
    assert station.daemon.pid == pid and station.daemon.running
    assert (disk.folder / "state" / "ballast").exists()
    fault.row(how=f"{kind} filled to the last byte", tally=station.tally(), recovered_s=recovered_s)
