"""What systemd is told, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edged.vitals.notify import Notifier


class Supervisor:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(2)
        self.environ = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def heard_so_far(self) -> list[str]:
        self.socket.setblocking(False)
        lines = []
        try:
            while True:
                lines += self.socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    it = Supervisor(str(tmp_path / "notify") if request.param == "path" else f"@edged-test-{os.getpid()}")
    yield it
    it.socket.close()


def test_ready_goes_with_the_status_line_in_one_datagram(supervisor: Supervisor) -> None:
    assert Notifier(supervisor.environ).ready("cam1 12/s, outbox 0")
    assert supervisor.heard() == ["READY=1", "STATUS=cam1 12/s, outbox 0"]


def test_reloading_carries_the_monotonic_time_in_microseconds(supervisor: Supervisor) -> None:
    Notifier(supervisor.environ, monotonic_ns=lambda: 5_000_001_999).reloading()
    assert supervisor.heard() == ["RELOADING=1", "MONOTONIC_USEC=5000001"]


def test_stopping_may_ask_for_more_time(supervisor: Supervisor) -> None:
    notifier = Notifier(supervisor.environ)
    notifier.stopping("3 images in work")
    notifier.extend_timeout(2.5)
    assert supervisor.heard() + supervisor.heard() == ["STOPPING=1", "STATUS=3 images in work", "EXTEND_TIMEOUT_USEC=2500000"]


def test_a_status_cannot_smuggle_in_another_assignment(supervisor: Supervisor) -> None:
    Notifier(supervisor.environ).status("file a\nMAINPID=1\nb.png")
    assert supervisor.heard() == ["STATUS=file a MAINPID=1 b.png"]


def test_without_systemd_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier({})
    assert (notifier.listening, notifier.ready(), notifier.watchdog_s) == (False, False, None)


def test_a_vanished_supervisor_does_not_stop_the_inspection(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_period_is_taken_only_when_meant_for_this_process(environ: dict[str, str], period_s: float | None) -> None:
    assert Notifier(environ).watchdog_s == period_s


async def run_through(notifier: Notifier, answers: Sequence[bool | str]) -> None:
    """Runs until the pipeline was asked once for each answer."""
    stop, left = asyncio.Event(), list(answers)

    def advancing() -> bool | str:
        answer = left.pop(0)
        if not left:
            stop.set()
        return answer

    await notifier.run(stop, advancing, lambda: "cam1 12/s")


async def test_the_watchdog_is_fed_twice_a_period_while_the_pipeline_advances(supervisor: Supervisor) -> None:
    begun = time.monotonic()
    await run_through(Notifier({**supervisor.environ, "WATCHDOG_USEC": "100000"}), [True] * 4)
    assert supervisor.heard_so_far() == ["WATCHDOG=1", "STATUS=cam1 12/s"] * 4
    assert time.monotonic() - begun >= 0.15, "three waits of half a period"


async def test_a_stuck_pipeline_starves_the_watchdog_and_says_what_is_stuck(supervisor: Supervisor) -> None:
    with capture_logs() as logs:
        await run_through(Notifier({**supervisor.environ, "WATCHDOG_USEC": "20000"}), ["the ledger's writer"] * 3)
    assert supervisor.heard_so_far() == ["STATUS=stuck: the ledger's writer"] * 3
    assert [log["event"] for log in logs] == ["watchdog.starved"]


async def test_a_pipeline_that_advances_again_is_fed_again(supervisor: Supervisor) -> None:
    with capture_logs() as logs:
        await run_through(Notifier({**supervisor.environ, "WATCHDOG_USEC": "20000"}), [False, False, True])
    assert supervisor.heard_so_far().count("WATCHDOG=1") == 1
    assert [log["event"] for log in logs] == ["watchdog.starved", "watchdog.fed_again"]


async def test_the_status_is_kept_fresh_where_there_is_no_watchdog(supervisor: Supervisor) -> None:
    await run_through(Notifier(supervisor.environ), [True])
    assert "STATUS=cam1 12/s" in supervisor.heard_so_far()
