"""HTTP clients that are slow, silent, many or too large, while images flow."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station

EACH = 30
HEAD = b"POST /api/v1/outbox/retry HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@contextmanager
def _clients(port: int, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    """So many that connect, say the first bytes, and nothing more."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            with suppress(OSError):  # one too many is turned away at once
                client.sendall(first)
            client.setblocking(False)
            made.append(client)
        yield made


def _open(clients: list[socket.socket]) -> int:
    """How many of them the daemon has not let go."""
    count = 0
    for client in clients:
        try:
            while client.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def _files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.fault("slow, silent and too many HTTP clients", matrix=(50,))
def test_clients_that_never_finish_are_let_go_and_no_image_waits_for_them(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(cameras=("cam1", "cam2"), camera='after = "move"')
    daemon, port = station.daemon, int(station.daemon.url.rpartition(":")[2])
    station.drop(10)
    station.settle(30)
    before = _files(daemon.pid)
    kinds = {
        "silent": b"",
        "half a header": b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        "half a body": HEAD + b"Content-Length: 4000\r\n\r\n{",
        "200 kB of body": HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000,
    }
    with station.feeding(rate_per_s=15), ExitStack() as stack:
        began = time.monotonic()
        clients = [client for first in kinds.values() for client in stack.enter_context(_clients(port, EACH, first))]
        wait_until(lambda: _open(clients) == 0, 60, "every client is let go")
        gone_s = time.monotonic() - began
        answered = time.monotonic()
        assert daemon.get("/api/v1/status") is not None
        answer_s = time.monotonic() - answered
    recovered_s = station.settle(60)
    wait_until(lambda: _files(daemon.pid) <= before + 5, 20, f"the daemon's files are {before} again, and a few")
    assert gone_s < 45
    assert answer_s < 3
    slowest = max(each.said["data"]["timing_ms"]["total"] for each in station.mes.results())
    fault.row(
        how=f"{EACH} each: {', '.join(kinds)}; all gone after {gone_s:.0f} s",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"slowest image {slowest / 1000:.1f} s",
    )
