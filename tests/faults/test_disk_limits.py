"""The process may open no more files, or start no more threads and processes: said in one sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import BASE, Station


@contextmanager
def at_most_open(pid: int, files: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def no_more_tasks(pid: int, children: Sequence[str]) -> Iterator[None]:
    """In a control group of its own that has as many processes and threads as it may have."""
    group = Path("/sys/fs/cgroup/pids") / f"edged-test-{pid}"
    if os.getuid() != 0 or not group.parent.is_dir():
        pytest.skip("a limit of tasks needs root and the pids control group")
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


@pytest.mark.parametrize("limit", ["no more open files", pytest.param("no more tasks", marks=pytest.mark.long)])
@pytest.mark.fault("limits of the process", matrix=(16,))
def test_a_process_that_reaches_its_limits_says_so_once_and_loses_nothing(
    limit: str, start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"')
    health = station.broker.listen(f"{BASE}/health")
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()
    limited = at_most_open(pid, 16) if limit == "no more open files" else no_more_tasks(pid, children)

    def process() -> list[dict[str, str]]:
        said = [json.loads(message.payload)["items"].get("process") for message in health.messages]
        return [item for item in said if item]

    with station.feeding(20):
        time.sleep(1)
        with limited:
            if limit == "no more tasks":
                os.kill(int(children[0]), signal.SIGKILL)
                os.kill(int(children[1]), signal.SIGKILL)
            wait_until(lambda: process()[-1]["status"] == "degraded", 15, "health tells of the limit")
            assert process()[-1]["cause"] and process()[-1]["hint"]
            time.sleep(6)
            station.over()
        wait_until(lambda: process()[-1]["status"] == "ok", 15, "health tells that it is over")
    recovered_s = station.settle()
    assert station.daemon.pid == pid and station.daemon.running
    log = station.daemon.log.read_text(errors="replace")
    assert log.count('"item": "process"') <= 3 and "Traceback" not in log
    assert len(log.splitlines()) < 80, "no flood of lines"
    fault.row(how=limit, tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.long
@pytest.mark.fault("no more threads to connect with", matrix=(16,))
def test_a_broker_that_restarts_while_no_thread_may_be_started_is_connected_to_later(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(camera='after = "move"')
    station.drop(20)
    station.settle()
    pid = station.daemon.pid
    with station.feeding(20):
        time.sleep(1)
        with no_more_tasks(pid, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout.split()):
            station.broker.restart()
            wait_until(lambda: "no thread" in station.complaints().get("broker", ""), 30, "health says why the broker is away")
            assert station.wait_health("process", "degraded")["hint"]
            station.over()
    recovered_s = station.settle(90)
    assert station.daemon.pid == pid and station.daemon.running
    fault.row(how="pids.max reached, broker restarted", tally=station.tally(), recovered_s=recovered_s)
