"""A station kept busy for hours, a fault every half minute: nothing is lost, and nothing grows."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import freeze
from rigs.station import Station
from rigs.vitals import Sample, sample, trends

SAMPLE_S = 5.0
FAULT_S = 30.0
PERIOD_S = 300.0
"""After each, everything must be settled; then counting begins anew, so that the run itself stays small."""
LEDGER = "[ledger]\nretain_rows = 2000\n"
# A daemon that lives on is measured; one kill half way shows that what it left behind costs nothing.
MAY_GROW = {"rss_kb": 1.10, "family_rss_kb": 1.15, "fds": 1.15, "threads": 1.15, "tasks": 1.25, "db_bytes": 1.5}
FILLED_S = 1800.0
WAL_BYTES = 70 * 1024**2


def _triton_killed(station: Station, dice: random.Random) -> None:
    station.triton.kill()
    time.sleep(dice.uniform(1, 8))
    station.triton.start()


@contextmanager
def _frozen(pid: int, thaw: Callable[[], None]) -> Iterator[None]:
    freeze(pid)
    try:
        yield
    finally:
        thaw()


def _triton_frozen(station: Station, dice: random.Random) -> None:
    with _frozen(station.triton.pid, station.triton.thaw):
        time.sleep(dice.uniform(1, 10))


def _broker_restarted(station: Station, dice: random.Random) -> None:
    station.broker.stop()  # it keeps its sessions; one that loses them is a fault of its own
    time.sleep(dice.uniform(1, 8))
    station.broker.start()


def _broker_frozen(station: Station, dice: random.Random) -> None:
    with _frozen(station.broker.pid, station.broker.thaw):
        time.sleep(dice.uniform(1, 10))


def _folder_away(station: Station, dice: random.Random) -> None:
    folder = station.folders["cam2"]
    aside = folder.with_name("away")
    folder.rename(aside)
    time.sleep(dice.uniform(1, 6))
    aside.rename(folder)


def _bad_images(station: Station, dice: random.Random) -> None:
    for _ in range(5):
        station.put("cam1", f"bad{dice.randrange(10**9):09d}.png", b"\x89PNG\r\n\x1a\n" + dice.randbytes(2000))


FAULTS = (_triton_killed, _triton_frozen, _broker_restarted, _broker_frozen, _folder_away, _bad_images)


class Run:
    """Samples and settles between the faults."""

    def __init__(self, station: Station) -> None:
        self.station, self.began = station, time.monotonic()
        self.samples: list[Sample] = []
        self.images = 0
        self.slowest_s = 0.0

    @property
    def at_s(self) -> float:
        return time.monotonic() - self.began

    def watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (found := sample(self.station.daemon, self.at_s)) is not None:
                self.samples.append(found)
            time.sleep(min(SAMPLE_S, max(0.0, end - time.monotonic())))

    def settle(self) -> None:
        self.station.over()
        self.slowest_s = max(self.slowest_s, self.station.settle(180))
        self.images += self.station.tally().images
        self.station.begin_anew()
        last = self.samples[-1]
        print(f"{self.at_s:7.0f} s  {self.images:7} images  {last.rss_kb} kB, {last.fds} fds, {last.threads} threads, {last.tasks} tasks")


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.fault("a long run with faults sprinkled in", matrix=(54,))
def test_hours_of_work_lose_nothing_and_nothing_grows(
    start_station: Callable[..., Station], fault: Fault, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    hours, rate = request.config.getoption("--soak-hours"), request.config.getoption("--soak-rate")
    dice = random.Random(request.config.getoption("--soak-seed"))
    station = start_station(cameras={"cam1": 'after = "delete"', "cam2": 'after = "move"'}, toml=LEDGER)
    run, faults = Run(station), 0
    killed = False
    while run.at_s < hours * 3600:
        with station.feeding(rate_per_s=rate):
            end = run.at_s + min(PERIOD_S, max(30.0, hours * 3600 - run.at_s))
            while run.at_s < end:
                run.watch(FAULT_S * dice.uniform(0.5, 1.0))
                dice.choice(FAULTS)(station, dice)
                faults += 1
            if not killed and run.at_s > hours * 3600 / 4:
                station.daemon.kill()
                station.daemon.start()
                killed = True
        run.settle()
    found, life_s = trends(run.samples)
    (tmp_path / "samples.json").write_text(json.dumps([[getattr(s, n) for n in Sample.__slots__] for s in run.samples]))
    print(f"\nthe longest life of the daemon: {life_s:.0f} s, {faults} faults in all; samples in {tmp_path}/samples.json")
    for trend in found:
        print(f"{trend.name:14} early {trend.early:14,.0f}  late {trend.late:14,.0f}  x{trend.growth:5.3f}  highest {trend.highest:14,.0f}")
    how = f"{run.at_s / 3600:.2f} h, {faults} faults, {rate:g} images/s"
    # The ledger is full of what it may retain only after a while.
    bounds = {name: most for name, most in MAY_GROW.items() if name != "db_bytes" or life_s > FILLED_S}
    grown = [f"{trend.name} x{trend.growth:.2f}" for trend in found if trend.growth > bounds.get(trend.name, 1000.0)]
    wal = max(each.wal_bytes for each in run.samples)
    fault.row(how, images=run.images, lost=0, doubled=0, recovered_s=run.slowest_s, ok=not grown and wal < WAL_BYTES, note=", ".join(grown))


def test_the_trend_of_a_leak_is_seen() -> None:
    """The figures would show a leak of 200 kB a minute, and none in a flat run."""
    steady = [Sample(float(n), 7, 100_000, 150_000, 40, 9, 50, 10_000_000, 4_000_000) for n in range(0, 3600, 5)]
    leaking = [Sample(s.at_s, 7, 100_000 + int(s.at_s * 200 / 60), 150_000, 40, 9, 50, 10_000_000, 4_000_000) for s in steady]
    assert all(trend.growth == 1.0 for trend in trends(steady)[0])
    (rss,) = [trend for trend in trends(leaking)[0] if trend.name == "rss_kb"]
    assert rss.growth > 1.05
