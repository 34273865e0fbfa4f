"""The harness itself: a station without any fault loses nothing, and the oracle sees what is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rigs.faults import Fault
from rigs.station import Station
from rigs.tally import tally


@pytest.mark.fault("none")
def test_a_station_without_faults_loses_nothing_and_the_oracle_would_see_it(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"')
    station.over()
    with station.feeding(rate_per_s=20):
        station.drop(30)
    recovered_s = station.settle(60)
    fault.row(how="nothing happens", tally=station.tally(), recovered_s=recovered_s)

    rows, arrivals = station.rows(), station.mes.results()
    assert tally(station.dropped, rows[1:], arrivals).lost == 1
    assert tally(station.dropped, [*rows, replace(rows[0], id="another")], arrivals).doubled == 1
    assert tally(station.dropped, rows, arrivals[1:]).lost == 1
    assert tally(station.dropped, rows, arrivals[1:]).gaps >= 1
    assert tally(station.dropped, rows, [*arrivals, replace(arrivals[0], body=b"{}")]).two_bodies == 1
