"""Under the real systemd, with the unit as it is shipped."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station
from rigs.systemd import Machine

WATCHDOG = "WatchdogSec=4\n"


def _restarts(machine: Machine) -> int:
    return int(machine.show("NRestarts"))


def _restart_under_load(station: Station, machine: Machine, times: int) -> float:
    """The longest stop (s)."""
    slowest_s = 0.0
    with station.feeding(rate_per_s=20):
        for _ in range(times):
            there = len(station.rows())
            wait_until(lambda: len(station.rows()) > there + 5, 30, "images are judged")  # noqa: B023
            began = time.monotonic()
            assert machine.run("stop", "edged.service").returncode == 0
            slowest_s = max(slowest_s, time.monotonic() - began)
            assert machine.show("Result") == "success", machine.journal()
            machine.start()
    return slowest_s


@pytest.mark.fault("systemctl restart under load", matrix=(45, 46))
def test_the_unit_as_shipped_judges_and_stops_in_time(
    start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    machine = boot(station)
    machine.start()
    slowest_s = _restart_under_load(station, machine, 3)
    recovered_s = station.settle(60)
    assert slowest_s < 10
    assert machine.show("Result") == "success"
    fault.row(how=f"3 times, slowest stop {slowest_s:.1f} s", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.long
@pytest.mark.fault("systemctl restart under load, often", matrix=(45,))
def test_twenty_restarts_under_load(start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "delete"', daemon=False)
    machine = boot(station)
    machine.start()
    slowest_s = _restart_under_load(station, machine, 20)
    recovered_s = station.settle(60)
    assert slowest_s < 10
    fault.row(how=f"20 times, slowest stop {slowest_s:.1f} s", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("the daemon hangs under systemd", matrix=(43, 44))
def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_started_anew(
    start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    machine = boot(station, WATCHDOG)
    machine.start()
    with station.feeding(rate_per_s=15):
        wait_until(lambda: len(station.rows()) > 20, 30, "images are judged")
        machine.run("kill", "--kill-whom=main", "--signal=STOP", "edged.service")
        began = time.monotonic()
        wait_until(lambda: _restarts(machine) == 1, 40, "systemd starts it anew")
        there = len(station.rows())
        wait_until(lambda: len(station.rows()) > there, 40, "images are judged again")
        gap_s = time.monotonic() - began
    station.settle(60)
    assert gap_s < 40
    assert "watchdog" in machine.run("-u", "edged.service", "--no-pager", program="journalctl").stdout.lower()
    fault.row(how="SIGSTOP, WatchdogSec=4", tally=station.tally(), recovered_s=round(gap_s, 1))


@pytest.mark.fault("a bug ends the daemon under systemd", matrix=(43,))
def test_a_bug_ends_the_daemon_is_named_in_the_journal_and_costs_no_image(
    start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    machine = boot(station, "Environment=EDGED_FAILPOINTS=ledger.committed=raise@30\n")
    machine.start()
    station.over()
    with station.feeding(rate_per_s=15):
        wait_until(lambda: _restarts(machine) >= 1, 40, "the bug has ended it once")
    recovered_s = station.settle(90)
    assert "Traceback" in machine.journal() or "FailpointRaised" in machine.journal()
    fault.row(how="an exception nobody expected, at the 30th record of each life", tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.fault("a wrong configuration under systemd")
def test_a_wrong_configuration_is_named_and_not_tried_again(
    start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault
) -> None:
    station = start_station(daemon=False)
    machine = boot(station, "Environment=EDGED_MQTT__PROT=1884\n")
    machine.run("start", "edged.service")
    wait_until(lambda: machine.show("ActiveState") == "failed", 20, "the unit has failed")
    time.sleep(3)
    assert machine.show("ExecMainStatus") == "78" and _restarts(machine) == 0
    assert "prot" in machine.journal()
    (machine.tree / "etc/systemd/system/edged.service.d/rig.conf").write_text(
        (machine.tree / "etc/systemd/system/edged.service.d/rig.conf").read_text().replace("MQTT__PROT=", "MQTT__WINDOW=")
    )
    machine.run("daemon-reload")
    machine.run("reset-failed", "edged.service")
    machine.start()
    station.drop(5)
    recovered_s = station.settle(30)
    fault.row(how="a misspelt key, then corrected", tally=station.tally(), recovered_s=recovered_s)
