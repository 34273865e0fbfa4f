"""The wall clock jumps while images arrive; the clock that counts since boot goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
YEAR_S = 365 * 86_400
JUMPS = {
    "an hour forward": 3600,
    "a day back": -86_400,
    "to 1990": -(YEAR_S * 36),
    "beyond 2038": YEAR_S * 13,
    "and right again": 0,
}


class WallClock:
    """What the daemon takes for the time: `shift` seconds beside the real one, from now on."""

    def __init__(self, file: Path) -> None:
        if not FAKETIME:
            pytest.skip("libfaketime is not on this machine (scripts/setup --rigs)")
        self._file = file
        self.shift(0)

    def shift(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # files keep their own times, as they do when a clock is set
        }


@pytest.mark.fault("the clock jumps", matrix=(32,))
def test_no_jump_of_the_clock_holds_up_or_doubles_an_image(start_station: Callable[..., Station], fault: Fault, tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', toml="[ledger]\nretain_days = 1\n", daemon=False)
    station.daemon.variables = clock.variables()
    station.daemon.start()
    worst_s = 0.0
    with station.feeding(rate_per_s=15):
        station.drop(10)
        wait_until(lambda: len(station.rows()) >= 10, 20, "the first images are judged")
        for seconds in JUMPS.values():
            clock.shift(seconds)
            at = time.monotonic()
            there = len(station.rows())
            wait_until(lambda: len(station.rows()) > there + 5, 20, "images go on being judged")  # noqa: B023
            worst_s = max(worst_s, time.monotonic() - at)
            time.sleep(2)
    station.settle(30)
    events = station.mes.events("clock-step")
    assert len(events) >= len(JUMPS) - 1, events
    assert {result.said["data"]["times"]["clock"] for result in station.mes.results()[-20:]} == {"unsynced"}
    assert station.health()["clock"]["status"] == "degraded"
    ids = {row.id for row in station.rows()}
    clock.shift(10 * YEAR_S)  # nothing is forgotten because of a jump, a restart in it included
    assert station.daemon.stop() == 0
    station.daemon.start()
    time.sleep(3)
    assert ids <= {row.id for row in station.rows()}
    fault.row(how=", ".join(JUMPS), tally=station.tally(), recovered_s=round(worst_s, 1))


@pytest.mark.fault("NTP sets the clock while a file settles", matrix=(32,))
def test_a_file_that_settles_while_the_clock_is_set_is_judged_once(
    start_station: Callable[..., Station], fault: Fault, tmp_path: Path
) -> None:
    clock = WallClock(tmp_path / "clock")
    station = start_station(camera="settle_s = 3.0", daemon=False)
    station.daemon.variables = clock.variables()
    clock.shift(-YEAR_S)
    station.daemon.start()
    station.drop(5, prefix="before")
    time.sleep(1.0)
    clock.shift(0)
    at = time.monotonic()
    station.drop(5, prefix="after")
    station.settle(30)
    took_s = round(time.monotonic() - at, 1)
    fault.row(how="a year forward during settle_s", tally=station.tally(), recovered_s=took_s)
    detected = {json.loads(each.body)["data"]["times"]["detected"] for each in station.mes.results()}
    assert len(detected) >= 2
