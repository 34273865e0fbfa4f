"""The daemon killed at each named step of an image's way, while images keep arriving."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edged.failpoints import POINTS
from faults.test_ledger_kills import PRUNING, REBUILDING, STEPS
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

SHM = Path("/dev/shm")
ON_ITS_WAY = (
    "daemon.ready",
    "intake.sent",
    "image.taken",
    "image.decoded",
    "image.inferred",
    "image.judged",
    "ledger.uncommitted",
    "ledger.committed",
    "image.recorded",
    "quarantine.copied",
    "quarantine.kept",
    "disposal.aside",
    "disposal.copied",
    "disposal.placed",
    "disposal.moved",
    "disposal.deleted",
    "disposal.told",
    "vanished.told",
    "outbox.sent",
    "outbox.answered",
    "outbox.delivered",
)
QUICK = ("image.judged", "ledger.committed", "disposal.aside", "disposal.placed", "outbox.answered")
ELSEWHERE = {
    "intake.baselined": "below",
    "daemon.draining": "below",
    "disposal.returned": "only when the tool takes a name again between two system calls: tests/contract/test_intake_disposal.py",
    "outbox.parked": "nothing follows the commit that it stands behind",
    "outbox.held": "nothing follows the commit that it stands behind",
    "rejudging.asked": "tests/faults/test_rejudging.py",
}


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the drop folders."""
    if not SHM.is_dir() or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to move files to")
    folder = Path(tempfile.mkdtemp(prefix="edged-moved-", dir=SHM))
    yield folder
    shutil.rmtree(folder)


def killed_at(station: Station, specs: Sequence[str]) -> int:
    """Kills it at each in turn, under load; returns how often."""
    kept = itertools.count(1)
    with station.feeding(rate_per_s=8):
        for number, spec in enumerate(specs):
            whole = bytearray(wafer_map(700_000 + number))
            whole[len(whole) // 2] ^= 0xFF  # its CRC no longer holds: for the quarantine
            station.put("deleted", f"broken{number:04d}.png", bytes(whole))
            station.daemon.variables["EDGED_FAILPOINTS"] = spec
            station.daemon.start(wait=False)
            if spec.startswith("vanished"):
                gone = station.put("kept", f"gone{next(kept)}.png", wafer_map(800_000 + number))
                wait_until(lambda: any(row.image[1] == gone.name.encode() for row in station.rows()), 60, f"{gone.name} is judged")  # noqa: B023
                gone.unlink()
            assert station.daemon.wait(90) == -9, f"{spec}: {station.daemon.said()}"
        station.daemon.variables.clear()
        station.daemon.start()
    return len(specs)


def kills(station: Station, fault: Fault, specs: Sequence[str]) -> None:
    count = killed_at(station, specs)
    station.over()
    recovered_s = station.settle(200)
    errors = {row.image[1] for row in station.rows() if row.verdict == "ERROR"}
    assert all(name.startswith(b"broken") for name in errors), "a good image is condemned"
    wait_until(lambda: not left_over(station), 60, f"nothing is left aside: {left_over(station)}")
    steps = {spec.partition("=")[0] for spec in specs}
    fault.row(how=f"{count} kills at {len(steps)} steps", tally=station.tally(), recovered_s=recovered_s)


def left_over(station: Station) -> list[Path]:
    """Judged files that are neither moved nor deleted, and names of ours."""
    folders = [station.folders[name] for name in ("moved", "deleted", "across")]
    return [path for folder in folders for path in folder.iterdir() if path.is_file()]


def station_of(start_station: Callable[..., Station], other: Path) -> Station:
    own = {"moved": 'after = "move"', "deleted": 'after = "delete"', "across": f'after = "move"\nmove_to = "{other}"', "kept": ""}
    return start_station(cameras=own, daemon=False)


def test_every_named_step_is_tried() -> None:
    assert {*ON_ITS_WAY, *STEPS, *PRUNING, *REBUILDING, *ELSEWHERE} == set(POINTS)


@pytest.mark.fault("kill -9 at named steps", matrix=(1, 2))
def test_killed_at_a_step_nothing_is_lost_or_doubled(other_file_system: Path, start_station: Callable[..., Station], fault: Fault) -> None:
    kills(station_of(start_station, other_file_system), fault, [f"{step}=kill" for step in QUICK])


@pytest.mark.long
@pytest.mark.fault("kill -9 at every named step, at its 1st, 2nd and 5th time", matrix=(1, 2))
def test_killed_at_every_step_at_its_nth_time(other_file_system: Path, start_station: Callable[..., Station], fault: Fault) -> None:
    few = ("daemon.ready", "quarantine.copied", "quarantine.kept", "vanished.told")
    specs = [f"{step}=kill@{hit}" for step in ON_ITS_WAY for hit in ((1,) if step in few else (1, 2, 5))]
    kills(station_of(start_station, other_file_system), fault, specs)


@pytest.mark.long
@pytest.mark.fault("kill -9 while it takes its first inventory, and while it drains", matrix=(1,))
def test_killed_at_its_first_inventory_or_its_end_nothing_is_lost(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras={"cam1": 'existing = "baseline"'}, daemon=False)
    old = [station.folders["cam1"] / f"old{number}.png" for number in range(20)]
    for number, path in enumerate(old):
        path.write_bytes(wafer_map(600_000 + number))
    for spec in ("intake.baselined=kill", "daemon.draining=kill"):
        station.daemon.variables["EDGED_FAILPOINTS"] = spec
        station.daemon.start(wait=False)
        if spec.startswith("daemon"):
            wait_until(lambda: station.daemon.get("/readyz", 503) is not None, 60, "the door is open")
            station.drop(20)
            station.daemon.stop()
        assert station.daemon.wait(60) == -9, station.daemon.said()
    station.daemon.variables.clear()
    station.over()
    station.drop(10)
    station.daemon.start()
    recovered_s = station.settle(60)
    time.sleep(2)
    assert not {row.image[1] for row in station.rows()} & {path.name.encode() for path in old}, "what was there before is not judged"
    fault.row(how="a first inventory, a stop", tally=station.tally(), recovered_s=recovered_s)
