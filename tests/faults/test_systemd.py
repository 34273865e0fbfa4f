"""Under the real systemd, with the unit as it is shipped. One machine goes through all of it; each part begins with the daemon stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station
from rigs.systemd import Machine

WATCHDOG = "WatchdogSec=4\n"
STOP_S = 10.0
"""What a stop may take: 8 s to drain, and systemd's own."""


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


def _wrong_configuration(station: Station, machine: Machine, fault: Fault) -> None:
    machine.change("Environment=EDGED_MQTT__PROT=1884\n")
    machine.run("start", "edged.service")
    wait_until(lambda: machine.show("ActiveState") == "failed", 60, "the unit has failed")
    time.sleep(3)
    assert machine.show("ExecMainStatus") == "78" and _restarts(machine) == 0
    assert "prot" in machine.journal()
    machine.change("")
    station.drop(5)
    station.over()
    machine.start()
    recovered_s = station.settle(60)
    fault.row(
        fault="under systemd: wrong configuration", how="a misspelt key, then corrected", tally=station.tally(), recovered_s=recovered_s
    )


def _restarted(station: Station, machine: Machine, fault: Fault) -> None:
    machine.start()
    slowest_s = _restart_under_load(station, machine, 3)
    recovered_s = station.settle(60)
    assert slowest_s < STOP_S
    assert machine.show("Result") == "success"
    how, note = "3 times systemctl stop, start", f"slowest stop {slowest_s:.1f} s"
    fault.row(fault="under systemd: restarted under load", how=how, tally=station.tally(), recovered_s=recovered_s, note=note)


def _hangs(station: Station, machine: Machine, fault: Fault) -> None:
    machine.change(WATCHDOG)
    machine.start()
    before = _restarts(machine)
    with station.feeding(rate_per_s=15):
        there = len(station.rows())
        wait_until(lambda: len(station.rows()) > there + 20, 30, "images are judged")
        machine.run("kill", "--kill-whom=main", "--signal=STOP", "edged.service")
        began = time.monotonic()
        wait_until(lambda: _restarts(machine) == before + 1, 60, "systemd starts it anew")
        again = len(station.rows())
        wait_until(lambda: len(station.rows()) > again, 60, "images are judged again")
        gap_s = time.monotonic() - began
    station.settle(60)
    assert "watchdog" in machine.run("-u", "edged.service", "--no-pager", program="journalctl").stdout.lower()
    fault.row(fault="under systemd: the daemon hangs", how="SIGSTOP, WatchdogSec=4", tally=station.tally(), recovered_s=round(gap_s, 1))


def _bug(station: Station, machine: Machine, fault: Fault) -> None:
    machine.change("Environment=EDGED_FAILPOINTS=ledger.committed=raise@30\n")
    machine.start()
    before = _restarts(machine)
    station.over()
    with station.feeding(rate_per_s=15):
        wait_until(lambda: _restarts(machine) > before, 60, "the bug has ended it once")
    recovered_s = station.settle(120)
    assert "failpoint ledger.committed" in machine.journal()
    how = "an exception nobody expected, at the 30th record of each life"
    fault.row(fault="under systemd: a bug ends the daemon", how=how, tally=station.tally(), recovered_s=recovered_s)


@pytest.mark.timeout(600)
@pytest.mark.fault("under systemd", matrix=(43, 44, 45, 46))
def test_under_systemd_no_error_hang_bug_or_restart_costs_an_image(
    start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault
) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"', daemon=False)
    machine = boot(station)
    for part in (_wrong_configuration, _restarted, _hangs, _bug):
        machine.stop()
        part(station, machine, fault)


@pytest.mark.long
@pytest.mark.fault("under systemd: restarted under load, often", matrix=(45,))
def test_twenty_restarts_under_load(start_station: Callable[..., Station], boot: Callable[..., Machine], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "delete"', daemon=False)
    machine = boot(station)
    machine.start()
    slowest_s = _restart_under_load(station, machine, 20)
    recovered_s = station.settle(60)
    assert slowest_s < STOP_S
    how, note = "20 times systemctl stop, start", f"slowest stop {slowest_s:.1f} s"
    fault.row(how=how, tally=station.tally(), recovered_s=recovered_s, note=note)
