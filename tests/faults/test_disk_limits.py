"""The process may open no more files, or start no more threads and processes: said in one sentence, nothing lost, over when it is lifted."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station


@contextmanager
def at_most_open(pid: int, files: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def no_more_tasks(pid: int) -> Iterator[None]:
    """In a control group of its own that has as many processes and threads as it may have."""
    group = Path("/sys/fs/cgroup/pids") / f"edged-test-{pid}"
    if os.getuid() != 0 or not group.parent.is_dir():
        pytest.skip("a limit of tasks needs root and the pids control group")
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    group.mkdir()
    try:
        for each in (str(pid), *children):
            (group / "cgroup.procs").write_text(each)
        (group / "pids.max").write_text((group / "pids.current").read_text())
        yield
    finally:
        for each in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(each)
        group.rmdir()


@pytest.mark.fault("no more open files", matrix=(16,))
def test_a_process_that_may_open_no_more_files_says_so_and_loses_nothing(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"')
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    print(len(os.listdir(f"/proc/{pid}/fd")))
    with station.feeding(20):
        time.sleep(1)
        with at_most_open(pid, 16):
            time.sleep(8)
            print(station.complaints())
            time.sleep(4)
            print(station.daemon.said())
        station.over()
    recovered_s = station.settle()
    assert station.daemon.pid == pid and station.daemon.running
    fault.row(how="prlimit --nofile=64", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("no more tasks", matrix=(16,))
def test_a_process_that_may_start_no_more_tasks_says_so_and_loses_nothing(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"')
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        with no_more_tasks(pid):
            decoder = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()[0]
            os.kill(int(decoder), signal.SIGKILL)
            station.broker.restart()
            time.sleep(8)
            print(station.complaints())
            time.sleep(4)
            print(station.daemon.said())
        station.over()
    recovered_s = station.settle()
    assert station.daemon.pid == pid and station.daemon.running
    fault.row(how="pids.max", tally=station.tally(), recovered_s=recovered_s)
