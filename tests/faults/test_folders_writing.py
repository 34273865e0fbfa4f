"""Tools that write slowly, in pieces, in place, over each other: no half image gets a verdict, and nothing is judged that is not there."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from rigs.faults import Fault
from rigs.fuse import Fuse
from rigs.processes import freeze, wait_until
from rigs.station import MAPS, Station, wafer_map

FORMATS = ("jpg", "png", "tif", "bmp")
PIECES = 10


def _encoded(number: int, extension: str, *, bright: bool) -> bytes:
    """A wafer map in another format; one pixel makes it an image of its own. Unless `bright`, uncompressed pixels end in zeros, and edged
    waits long whether they are black or not written yet."""
    image = cv2.imdecode(np.frombuffer(MAPS[number % len(MAPS)].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    image = cv2.resize(image, (320, 320), interpolation=cv2.INTER_NEAREST)
    if bright:
        image[0], image[-1] = 200, 200
    image[0, 0] = (number % 256, number // 256, 99)
    ok, data = cv2.imencode(f".{extension}", image)
    assert ok
    return data.tobytes()


def _pieces(content: bytes) -> list[tuple[int, bytes]]:
    size = len(content) // PIECES + 1
    return [(at, content[at : at + size]) for at in range(0, len(content), size)]


def _pause(file: Path, content: bytes, over_s: float) -> None:
    with file.open("wb", buffering=0) as writing:
        writing.write(content[: len(content) // 2])
        time.sleep(over_s)
        writing.write(content[len(content) // 2 :])


def _slow(file: Path, content: bytes, over_s: float) -> None:
    with file.open("wb", buffering=0) as writing:
        for _, piece in _pieces(content):
            writing.write(piece)
            time.sleep(over_s / PIECES)


def _reopen(file: Path, content: bytes, over_s: float) -> None:
    for _, piece in _pieces(content):
        with file.open("ab", buffering=0) as writing:
            writing.write(piece)
        time.sleep(over_s / PIECES)


def _reserved(file: Path, content: bytes, over_s: float) -> None:
    with file.open("wb", buffering=0) as writing:
        os.posix_fallocate(writing.fileno(), 0, len(content))
        _fill(writing.fileno(), content, over_s)


def _sparse(file: Path, content: bytes, over_s: float) -> None:
    with file.open("wb", buffering=0) as writing:
        writing.truncate(len(content))
        _fill(writing.fileno(), content, over_s)


def _zeroed(file: Path, content: bytes, over_s: float) -> None:
    """Its size reserved by zeros that are written, as a copy over SMB may do."""
    with file.open("wb", buffering=0) as writing:
        writing.write(bytes(len(content)))
        _fill(writing.fileno(), content, over_s)


def _fill(descriptor: int, content: bytes, over_s: float) -> None:
    for at, piece in _pieces(content):
        os.pwrite(descriptor, piece, at)
        time.sleep(over_s / PIECES)


STYLES = {"paused": _pause, "slow": _slow, "reopened": _reopen, "reserved": _reserved, "sparse": _sparse, "zeroed": _zeroed}


def _partial(station: Station) -> list[tuple[str, str]]:
    """Files of which something got a verdict that was not the whole."""
    whole = {image[2] for image in station.dropped}
    return [(os.fsdecode(row.image[1]), row.verdict) for row in station.rows() if row.image[2] not in whole]


def _writers(station: Station, over_s: float, cameras: tuple[str, ...], *, bright: bool) -> list[threading.Thread]:
    """Every format in every style at once, each with its own writer."""
    writers, number = [], 0
    for camera in cameras:
        for style, write in STYLES.items():
            for extension in FORMATS:
                number += 1
                name, content = f"{style}.{extension}", _encoded(number, extension, bright=bright)
                station.expect(camera, name, content)
                writers.append(threading.Thread(target=write, args=(station.folders[camera] / name, content, over_s)))
    for writer in writers:
        writer.start()
    return writers


def _whole(station: Station, writers: list[threading.Thread], over_s: float, where: str, fault: Fault) -> None:
    for writer in writers:
        writer.join(over_s * 3 + 60)
    station.over()
    recovered_s = station.settle(120)
    assert _partial(station) == []
    assert {row.verdict for row in station.rows()}.isdisjoint({"ERROR"})
    how = f"{', '.join(STYLES)}: each of {', '.join(FORMATS)} over {over_s:g} s{where}"
    fault.row(fault="half-written files", how=how, tally=station.tally(), recovered_s=recovered_s, note="0 partial")


@pytest.mark.long
@pytest.mark.fault("half-written files, a minute long, also on a share", matrix=(36,))
def test_no_file_that_is_written_for_a_minute_gets_a_verdict_before_its_end(
    start_station: Callable[..., Station], make_fuse: Callable[[], Fuse], fault: Fault
) -> None:
    share = make_fuse()
    station = start_station(cameras=("cam1", "fuse"), folders={"fuse": share.folder})
    station.folders = {**station.folders, "fuse": share.behind}
    writers = _writers(station, 60.0, ("cam1", "fuse"), bright=False)
    _whole(station, writers, 60.0, ", locally and on the server's side of bindfs", fault)


def _one_name(station: Station, cameras: Sequence[str]) -> None:
    """Another image under the same name every 3 s."""
    for number in range(4):
        began = time.monotonic()
        for at, camera in enumerate(cameras):
            content = wafer_map(100 * at + number)
            if camera == "inplace":
                (station.folders[camera] / "live.png").write_bytes(content)
                station.expect(camera, "live.png", content)
            else:
                station.put(camera, "live.png", content)  # over the one that may still lie there
        time.sleep(max(0.0, began + 3 - time.monotonic()))


@contextmanager
def _nobody_reads(station: Station) -> Iterator[None]:
    """Files are settled and sent, and every decoder process stands still: what happens now happens between scan and read."""
    children = [child.pid for child in psutil.Process(station.daemon.pid).children() if "edged.vision.child" in child.cmdline()]
    assert children
    for pid in children:
        freeze(pid)
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)


def _changed_before_it_is_read(station: Station, fault: Fault) -> None:
    folder = station.folders["cam1"]
    names = ("deleted.png", "inplace.png", "renamed.png", "longer.png")
    with _nobody_reads(station):
        for name in names:
            (folder / ".tool").write_bytes(wafer_map(500 + len(name)))
            (folder / ".tool").rename(folder / name)  # the first content is nobody's: it is gone before it could be read
        wait_until(lambda: station.daemon.get("/api/v1/cameras")["cameras"][0]["in_flight"] == 4, 5, "all four are sent")
        (folder / "deleted.png").unlink()
        station.expect("cam1", "inplace.png", wafer_map(601))
        (folder / "inplace.png").write_bytes(wafer_map(601))
        station.put("cam1", "renamed.png", wafer_map(602))
        longer = wafer_map(603)
        station.expect("cam1", "longer.png", longer)
        with (folder / "longer.png").open("r+b", buffering=0) as file:
            file.write(longer[:200])
            time.sleep(0.2)
            file.write(longer[200:])
            file.truncate()
    station.over()
    recovered_s = station.settle()
    wait_until(lambda: any(a.topic.endswith("/event/vanished") for a in station.mes.arrivals), 10, "the deleted file is told")
    told = [a.said["data"] for a in station.mes.arrivals if a.topic.endswith("/event/vanished")]
    assert [data["file"] for data in told] == ["deleted.png"]
    gone = {hashlib.sha256(wafer_map(500 + len(name))).hexdigest() for name in names}
    assert gone.isdisjoint(row.image[2] for row in station.rows())
    name, how = "deleted or overwritten between scan and read", "decoders stopped while the files change"
    fault.row(fault=name, how=how, tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("tools that write as they like", matrix=(36, 37, 38))
def test_no_half_image_gets_a_verdict_and_none_is_missed_however_a_tool_writes(start_station: Callable[..., Station], fault: Fault) -> None:
    one_name = {"renamed": "", "moved": 'after = "move"', "inplace": "", "deleted": 'after = "delete"'}
    station = start_station(cameras={"cam1": "", "polled": 'mode = "poll"', **one_name})
    writers = _writers(station, 6.0, ("cam1", "polled"), bright=True)
    _one_name(station, tuple(one_name))
    _whole(station, writers, 6.0, "", fault)
    assert len({row.id for row in station.rows() if row.image[1] == b"live.png"}) == 16
    how = "renamed over and written over every 3 s; keep, move, delete"
    fault.row(fault="one name used again and again", how=how, tally=station.tally())
    _changed_before_it_is_read(station, fault)
