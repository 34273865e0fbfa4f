"""The daemon killed while images keep arriving: at random, at its stop, and by a second one that wants its place."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count

import cv2
import numpy as np
import pytest

from rigs.daemon import EDGED
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import MAPS, Station, wafer_map
from rigs.tally import Recorded

CAMERAS = {"moved": 'after = "move"', "deleted": 'after = "delete"', "kept": ""}
FRESH_S = 60.0


def stack(number: int) -> bytes:
    """A TIFF of three pages that no other number has."""
    pages = [cv2.imread(str(MAPS[(number + turn) % len(MAPS)]), cv2.IMREAD_GRAYSCALE) for turn in range(3)]
    marked = [page.copy() for page in pages if page is not None]
    marked[0][0, :4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
    ok, content = cv2.imencodemulti(".tif", marked)
    assert ok
    return bytes(content)


def drop_odd_ones(station: Station, number: int) -> None:
    """What is no plain image: a file of three pages, and one that breaks half way."""
    for camera in station.folders:
        station.put(camera, f"stack{number:04d}.tif", stack(1000 * number + len(camera)), pages=3)
    whole = wafer_map(500_000 + number)
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF  # its CRC no longer holds
    station.put("deleted", f"broken{number:04d}.png", bytes(broken))


def newest(station: Station) -> int:
    """The number of the landing recorded last."""
    try:
        with closing(sqlite3.connect(f"{station.ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            return int(connection.execute("SELECT coalesce(max(landing), 0) FROM landing").fetchone()[0])
    except sqlite3.OperationalError:  # it is not there yet
        return 0


def wait_for_a_new_one(station: Station, before: int) -> None:
    """A new image is recorded. Looks seldom: the machine is busy enough."""
    until = time.monotonic() + FRESH_S
    while newest(station) <= before:
        assert time.monotonic() < until, f"nothing new is recorded; health: {station.complaints()}\n{station.daemon.said()}"
        time.sleep(0.05)


def condemned(rows: list[Recorded]) -> list[Recorded]:
    """Images that are ERROR though nothing is wrong with them."""
    return [row for row in rows if row.verdict == "ERROR" and not row.image[1].startswith(b"broken")]


@pytest.mark.timeout(7200)  # as long as --kills makes it
@pytest.mark.fault("kill -9 at random", matrix=(1,))
def test_kills_at_random_lose_nothing_double_nothing_and_condemn_no_good_image(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=CAMERAS)
    rng = random.Random(7)
    recovered: list[float] = []
    with station.feeding(rate_per_s=10):
        for kill in range(fault.kills):
            if kill % 10 == 0:
                drop_odd_ones(station, kill)
            station.daemon.kill()
            began, before = time.monotonic(), newest(station)
            station.daemon.start(wait=False)
            if rng.random() < 0.4:  # some die while they start
                time.sleep(rng.uniform(0.0, 1.5))
                continue
            wait_for_a_new_one(station, before)
            recovered.append(time.monotonic() - began)
            time.sleep(rng.uniform(0.0, 0.8))
        station.daemon.kill()
        station.daemon.start()
    station.settle(120)
    assert not condemned(station.rows())
    left = [path for name in ("moved", "deleted") for path in station.folders[name].glob("*.*") if path.is_file()]
    wait_until(lambda: not any(path.exists() for path in left), 30, f"judged files are moved and deleted: {left[:3]}")
    recovered.sort()
    middle, last = recovered[len(recovered) // 2], recovered[-1]
    fault.row(
        how=f"{fault.kills} kills, three cameras, 10 images/s",
        tally=station.tally(),
        recovered_s=middle,
        note=f"first new record after {middle:.1f} s, at most {last:.1f} s",
    )


@pytest.mark.fault("two daemons on one state directory", matrix=(49,))
def test_a_second_daemon_on_one_state_directory_ends_at_once_with_one_sentence(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station()
    began = time.monotonic()
    command = [str(EDGED), "run", "--config", str(station.daemon.config)]
    second = subprocess.run(command, capture_output=True, text=True, env=station.daemon.environment(), timeout=30, check=False)
    took_s = time.monotonic() - began
    said = [line for line in second.stderr.splitlines() if line.startswith("edged: ")]
    assert second.returncode == 1
    assert len(said) == 1
    assert f"another edged (process {station.daemon.pid}) uses it" in said[0]
    assert "Stop that one first" in said[0]
    station.drop(10)
    station.settle(30)
    fault.row(how="a second `edged run`", tally=station.tally(), recovered_s=took_s, ok=took_s < 10, note=f"it ended after {took_s:.1f} s")


@pytest.mark.fault("SIGTERM under load", matrix=(45,))
def test_sigterm_under_load_stops_in_time_and_loses_nothing(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=CAMERAS)
    slowest = 0.0
    numbers = count()
    with station.feeding(rate_per_s=30):
        for _ in range(max(5, min(20, fault.kills // 4))):
            drop_odd_ones(station, 10_000 + next(numbers))
            wait_for_a_new_one(station, newest(station))
            began = time.monotonic()
            assert station.daemon.stop() == 0, station.daemon.said()
            slowest = max(slowest, time.monotonic() - began)
            station.daemon.start(wait=False)
    station.over()
    station.settle(60)
    assert not condemned(station.rows())
    assert "daemon.not_drained" not in station.daemon.log.read_text()
    rounds = next(numbers)
    fault.row(how=f"{rounds} stops at 30 images/s", tally=station.tally(), ok=slowest < 10, note=f"slowest stop {slowest:.1f} s")
