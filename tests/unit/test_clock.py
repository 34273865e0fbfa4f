"""The wall clock against the one that counts since boot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from edged.clock import SETTLE_S, ClockWatch, kernel_state
from edged.nouns import HealthStatus


class Clocks:
    def __init__(self, kernel: str = "synced") -> None:
        self.wall, self.boot, self.kernel = 1_700_000_000.0, 100.0, kernel
        self.said: dict[str, Any] = {}
        self.watch = ClockWatch(self, kernel=lambda: self.kernel, wall=lambda: self.wall, since_boot=lambda: self.boot)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.said = {"name": name, "status": status, "cause": cause, **facts}

    def passes(self, seconds: float, step_s: float = 0.0) -> Mapping[str, Any] | None:
        self.boot += seconds
        self.wall += seconds + step_s
        return self.watch.look()


def test_the_kernel_tells_whether_the_clock_is_disciplined() -> None:
    assert kernel_state() in ("synced", "unsynced")


@pytest.mark.parametrize("step_s", [3600.0, -86_400.0, 5 * 365 * 86_400.0, -1.5])
def test_a_step_is_told_once_and_makes_times_unsynced_for_a_while(step_s: float) -> None:
    clocks = Clocks()
    assert clocks.passes(1) is None and clocks.watch.state() == "synced" and clocks.said["status"] is HealthStatus.OK
    step = clocks.passes(1, step_s)
    assert step is not None and step["step_s"] == step_s
    assert clocks.watch.state() == "unsynced"
    assert clocks.said["status"] is HealthStatus.DEGRADED and ("forward" if step_s > 0 else "back") in clocks.said["cause"]
    assert clocks.passes(SETTLE_S / 2) is None and clocks.watch.state() == "unsynced"
    assert clocks.passes(SETTLE_S / 2) is None and clocks.watch.state() == "synced"


def test_what_a_time_service_slews_is_no_step() -> None:
    clocks = Clocks()
    assert [clocks.passes(1, 0.4) for _ in range(10)] == [None] * 10


def test_a_station_without_a_time_service_says_so_without_alarm() -> None:
    clocks = Clocks(kernel="unsynced")
    clocks.passes(1)
    assert clocks.said["status"] is HealthStatus.UNKNOWN and "time service" in clocks.said["cause"]


def test_a_clock_beyond_all_dates_is_told_in_seconds() -> None:
    step = Clocks().passes(1, 1e15)
    assert step is not None and "since 1970" in step["after"]
