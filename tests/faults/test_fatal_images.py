"""One image that ends the daemon itself, not its decoder: it costs two restarts, and no other image anything. `supervised` is systemd."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

CGROUP = Path("/sys/fs/cgroup/memory")
MEMORY = 1500 << 20


@contextmanager
def supervised(station: Station, prefix: Sequence[str] = ()) -> Iterator[list[int]]:
    """The daemon is started anew whenever it ends; yields its exit statuses so far."""
    statuses: list[int] = []
    end = threading.Event()

    def keep() -> None:
        while not end.is_set():
            if not station.daemon.running:
                statuses.append(station.daemon.wait())
                station.daemon.start(wait=False, prefix=prefix)
            end.wait(0.1)

    station.daemon.start(wait=False, prefix=prefix)
    thread = threading.Thread(target=keep, name="systemd", daemon=True)
    thread.start()
    try:
        yield statuses
    finally:
        end.set()
        thread.join(30)


def verdict_of(station: Station, name: bytes) -> tuple[str, str]:
    """(verdict, reason) of the newest verdict on a file of this name; ("", "") while there is none."""
    found = [row for row in station.rows() if row.image[1] == name]
    return (found[-1].verdict, found[-1].reason) if found else ("", "")


def ended_by_one_image(station: Station, fault: Fault, how: str, *, statuses_of: int, prefix: Sequence[str] = ()) -> None:
    """Two deaths, an ERROR with its reason for `fatal.png`, and every other image judged as ever."""
    station.put("cam1", "fatal.png", wafer_map(900_001))
    with supervised(station, prefix) as statuses, station.feeding(rate_per_s=10):
        wait_until(lambda: verdict_of(station, b"fatal.png")[0] != "", 60, f"fatal.png has a verdict; it ended {statuses}")
        assert verdict_of(station, b"fatal.png") == ("ERROR", "daemon-died")
        assert 2 <= len(statuses) <= 3
        assert set(statuses) == {statuses_of}
        station.over()
        time.sleep(2)
        deaths = len(statuses)
    recovered_s = station.settle(60)
    errors = [row for row in station.rows() if row.verdict == "ERROR"]
    assert [row.image[1] for row in errors] == [b"fatal.png"]
    said = next(each.said["data"] for each in station.mes.results() if each.said["data"]["image"]["name"] == "fatal.png")
    assert said["verdict"] == "ERROR"
    assert len(list((station.daemon.state / "quarantine").glob("*.png"))) == 1
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, note=f"{deaths} restarts, then ERROR daemon-died")


@pytest.mark.fault("a bug met in one image")
def test_an_image_that_a_bug_of_ours_cannot_stand_is_error_after_two_restarts(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    station.daemon.variables["EDGED_FAILPOINTS"] = "image.inferred[fatal.png]=raise@1+"
    ended_by_one_image(station, fault, "an exception from its journey, at each try", statuses_of=1)
    assert "Failpoint: failpoint image.inferred" in station.daemon.log.read_text()


@pytest.mark.long
@pytest.mark.fault("an image that crashes the daemon")
def test_an_image_that_crashes_the_daemon_is_error_after_few_restarts(start_station: Callable[..., Station], fault: Fault) -> None:
    """SIGABRT, as systemd's watchdog sends when the image makes the daemon hang. With others under way the first proves nothing."""
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    station.daemon.variables["EDGED_FAILPOINTS"] = "image.inferred[fatal.png]=abort@1+"
    ended_by_one_image(station, fault, "SIGABRT while it is judged, at each try", statuses_of=-6)
    assert "Fatal Python error: Aborted" in station.daemon.log.read_text()


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """A memory cgroup with a limit of its own."""
    group = CGROUP / f"edged-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    except OSError as error:
        pytest.skip(f"no memory cgroup (v1) can be made here: {error.strerror}")
    yield group
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:  # its last process is just going
            time.sleep(0.1)


@pytest.mark.long
@pytest.mark.fault("an image that exhausts the daemon's memory")
def test_an_image_for_which_the_kernel_kills_the_daemon_is_error_after_few_restarts(
    small_memory: Path, start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    station.daemon.variables["EDGED_FAILPOINTS"] = "image.inferred[fatal.png]=eat@1+"
    enter = ["sh", "-c", f'echo $$ > {small_memory}/cgroup.procs && exec "$@"', "enter"]
    ended_by_one_image(station, fault, f"out of memory at {MEMORY >> 20} MiB (cgroup), at each try", statuses_of=-9, prefix=enter)


@pytest.mark.long
@pytest.mark.fault("kill -9 at one good image, again and again", matrix=(1,))
def test_a_good_image_alone_at_every_kill_is_never_condemned(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(daemon=False)
    station.put("cam1", "good.png", wafer_map(900_002))
    kills = min(6, max(3, fault.kills // 20))  # after each it waits longer: 0, 2, 4 ... s
    station.daemon.variables["EDGED_FAILPOINTS"] = "image.inferred[good.png]=kill@1+"
    for _ in range(kills):
        station.daemon.start(wait=False)
        assert station.daemon.wait(60) == -9
    station.daemon.variables.clear()
    station.over()
    station.drop(20)
    station.daemon.start(wait=False)
    recovered_s = station.settle(90)
    assert verdict_of(station, b"good.png")[0] != "ERROR"
    fault.row(how=f"{kills} times at the same step, nothing else under way", tally=station.tally(), recovered_s=recovered_s)
