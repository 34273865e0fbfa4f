"""What tools, people and shares do to files that are judged already: touched, shifted by a time zone, renamed, dropped again, linked."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import MAPS, Station, wafer_map

HOUR_NS = 3_600_000_000_000


def _lies(folder: Path) -> set[str]:
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*.png")}


def _again(station: Station, name: str, content: bytes, mtime_ns: int) -> None:
    """As a camera PC copies a file once more: with the time it had."""
    folder = station.folders["moved"]
    aside = folder / ".tool"
    aside.write_bytes(content)
    os.utime(aside, ns=(mtime_ns, mtime_ns))
    aside.rename(folder / name)


def _touched_and_shifted(station: Station) -> None:
    for file in sorted(station.folders["kept"].glob("*.png"))[5:]:
        file.touch()
    for file in station.folders["polled"].glob("*.png"):
        facts = file.stat()
        os.utime(file, ns=(facts.st_atime_ns + HOUR_NS, facts.st_mtime_ns + HOUR_NS))


def _renamed(station: Station) -> None:
    for file in sorted(station.folders["kept"].glob("*.png"))[:5]:
        file.rename(file.with_name("renamed-" + file.name))
    (station.folders["tree"] / "L1").rename(station.folders["tree"] / "L2")


def _no_landings(folder: Path) -> set[str]:
    (folder / "link.png").symlink_to("/etc/hostname")
    os.mkfifo(folder / "fifo.png")
    names = {"link.png", "fifo.png"}
    if os.getuid() == 0:
        os.mknod(folder / "device.png", 0o020644, os.makedev(1, 5))  # /dev/zero, which never ends
        names.add("device.png")
    return names


@pytest.fixture
def other_disk() -> Iterator[Path]:
    place = Path("/dev/shm") / f"edged-shelf-{os.getpid()}"
    place.mkdir()
    yield place
    shutil.rmtree(place)


@pytest.mark.fault("judged files touched, shifted, renamed, dropped again")
def test_nothing_that_happens_to_a_judged_file_gives_it_a_second_verdict_and_nothing_new_is_missed(
    start_station: Callable[..., Station], fault: Fault, other_disk: Path
) -> None:
    cameras = {
        "kept": "",
        "polled": 'mode = "poll"\nreconcile_s = 2',
        "moved": 'after = "move"',
        "far": f'after = "move"\nmove_to = "{other_disk}"',
        "tree": "recursive = true",
    }
    station = start_station(cameras=cameras)
    (station.folders["tree"] / "L1").mkdir()
    station.drop(50)
    for number in range(10):
        content = wafer_map(900 + number)
        (station.folders["tree"] / "L1" / f"{number}.png").write_bytes(content)
        station.expect("tree", f"L1/{number}.png", content)
    first = station.put("moved", "again.png", wafer_map(701)).stat().st_mtime_ns
    station.settle()
    before = len(station.rows())
    wait_until(lambda: not list(station.folders["far"].glob("*.png")), 10, "the files of `far` are on the other file system")
    assert _lies(other_disk) == {image[2] for image in station.dropped if image[0] == "far"}

    _touched_and_shifted(station)
    _renamed(station)
    wait_until(lambda: not (station.folders["moved"] / "again.png").exists(), 10, "again.png is moved away")
    _again(station, "again.png", wafer_map(701), first)
    wait_until(lambda: not (station.folders["moved"] / "again.png").exists(), 10, "and again, without a second result")
    odd = _no_landings(station.folders["kept"])
    linked = station.folders["kept"] / "linked.png"
    (station.home / "outside.png").write_bytes(wafer_map(702))
    os.link(station.home / "outside.png", linked)
    time.sleep(6)  # a reconcile pass and the polls after it
    assert len(station.rows()) == before

    station.over()
    other = wafer_map(701 + len(MAPS))
    assert len(other) == len(wafer_map(701))
    station.expect("moved", "again.png", other)
    _again(station, "again.png", other, first)
    (station.home / "outside.png").unlink()
    station.expect("kept", "linked.png", wafer_map(702))
    recovered_s = station.settle()
    assert len(station.rows()) == before + 2
    said = {a.said["data"]["file"]: a.said["data"]["cause"] for a in station.mes.arrivals if a.topic.endswith("/event/ignored")}
    assert set(said) == odd
    for name in odd:
        assert "not a regular file" in str(station.daemon.get(f"/api/v1/trace?name={name}"))
    assert not any(a.topic.endswith("/event/vanished") for a in station.mes.arrivals)
    moved = _lies(station.folders["moved"] / ".done")
    assert moved == {image[2] for image in station.dropped if image[0] == "moved"}, "no file was replaced or lost on its shelf"
    how = "touch; mtimes + 1 h; files and a directory renamed; the same and another file under one name, size and time; links, FIFO, device"
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s)
