"""More files than events or memory allow for: an overflow of the kernel's queue, and a folder that holds half a million when we come."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from rigs.faults import Fault
from rigs.processes import freeze, wait_until
from rigs.station import MAPS, Station, wafer_map

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def _overflow(station: Station, count: int, fault: Fault, timeout_s: float) -> None:
    """`count` files while the daemon is stopped: two events each, of which the kernel keeps max_queued_events."""
    limit = int(QUEUE.read_text())
    freeze(station.daemon.pid)
    try:
        for number in range(count):
            # In place: creating, writing and closing are events of their own. Each file is a tool's, and in its place at once.
            name, content = f"o{number:06d}.png", wafer_map(number)
            (station.folders["cam1"] / name).write_bytes(content)
            station.expect("cam1", name, content)
    finally:
        os.kill(station.daemon.pid, signal.SIGCONT)
    station.over()
    overflows = 0

    def seen() -> int:
        nonlocal overflows
        camera = station.daemon.get("/api/v1/cameras")["cameras"][0]
        overflows = camera["overflows"]
        return int(camera["waiting"] + camera["in_flight"]) + len(station.rows())

    began = time.monotonic()
    wait_until(lambda: seen() >= count, 30, "the listing has found every file")
    listed_s = time.monotonic() - began
    recovered_s = station.settle(timeout_s)
    assert overflows >= 1 or 2 * count < limit, "the kernel's queue did not overflow: this proves nothing"
    tally, note = station.tally(), f"queue of {limit}, overflows {overflows}, listed in {listed_s:.1f} s"
    fault.row(how=f"{count} files while the daemon is SIGSTOPped", tally=tally, recovered_s=recovered_s, note=note)


@pytest.mark.fault("event overflow, short", matrix=(33,))
def test_every_file_of_an_overflowing_event_queue_is_judged_once(start_station: Callable[..., Station], fault: Fault) -> None:
    limit = QUEUE.read_text()
    try:
        QUEUE.write_text("512")  # read by the kernel when a queue is made
    except OSError:
        pytest.skip("fs.inotify.max_queued_events cannot be lowered here, and 20,000 files are the long form")
    try:
        station = start_station()
    finally:
        QUEUE.write_text(limit)
    _overflow(station, 1_000, fault, 120)


@pytest.mark.long
@pytest.mark.fault("event overflow", matrix=(33,))
def test_twenty_thousand_files_that_come_while_the_daemon_stands_still_are_judged_once(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    _overflow(start_station(), 20_000, fault, 1800)


def _fill(folder: Path, count: int) -> None:
    """Hard links would wait; so every file is one of its own, small and soon made."""
    content = MAPS[0].read_bytes()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for number in range(count):
            file = os.open(f"old{number:07d}.png", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=descriptor)
            if number % 1000 == 0:
                os.write(file, content)
            os.close(file)
    finally:
        os.close(descriptor)


def _slowest_status_s(station: Station, end: threading.Event) -> float:
    worst = 0.0
    while not end.is_set():
        began = time.monotonic()
        assert station.daemon.get("/api/v1/status") is not None
        worst = max(worst, time.monotonic() - began)
        end.wait(0.2)
    return worst


def _half_a_million(start_station: Callable[..., Station], fault: Fault, count: int) -> None:
    station = start_station(camera='existing = "baseline"', daemon=False)
    _fill(station.folders["cam1"], count)
    began = time.monotonic()
    station.daemon.start(ready=False)
    process, end, answers = psutil.Process(station.daemon.pid), threading.Event(), list[float]()
    watcher = threading.Thread(target=lambda: answers.append(_slowest_status_s(station, end)))
    watcher.start()
    largest_mb = 0.0
    try:
        wait_until(lambda: station.health().get("folder:cam1") is not None, 300, "the folder is listed")
        listed_s = time.monotonic() - began

        def baselined() -> bool:
            nonlocal largest_mb
            largest_mb = max(largest_mb, process.memory_info().rss / 1e6)
            with closing(sqlite3.connect(f"{station.ledger.as_uri()}?mode=ro", uri=True, timeout=10)) as ledger:
                return ledger.execute("SELECT files FROM camera").fetchone() == (count,)

        station.over()
        first = time.monotonic()
        station.drop(1, "cam1")
        wait_until(lambda: len(station.rows()) >= 1, 60, "the first new image is judged")
        first_s = time.monotonic() - first
        wait_until(baselined, 300, "everything old is known")
    finally:
        end.set()
        watcher.join(20)
    station.drop(20, "cam1")
    recovered_s = station.settle()
    start_s = time.monotonic() - began
    note = f"listed after {listed_s:.0f} s, a new file's verdict after {first_s:.1f} s, RSS {largest_mb:.0f} MB, "
    note += f"status within {answers[0]:.2f} s, all in {start_s:.0f} s"
    ok = first_s < 30 and largest_mb < 300 and answers[0] < 3
    fault.row(how=f"{count:,} old files, existing = baseline", tally=station.tally(), recovered_s=recovered_s, ok=ok, note=note)


@pytest.mark.fault("a folder full of old files, short", matrix=(39,))
def test_a_baseline_of_twenty_thousand_old_files_delays_no_new_one(start_station: Callable[..., Station], fault: Fault) -> None:
    _half_a_million(start_station, fault, 20_000)


@pytest.mark.long
@pytest.mark.fault("a folder full of old files", matrix=(39,))
def test_half_a_million_old_files_cost_neither_memory_nor_time(start_station: Callable[..., Station], fault: Fault) -> None:
    _half_a_million(start_station, fault, 500_000)
