"""The broker of a whole station is stopped, killed, frozen, forgetful, refuses: images go on, and every verdict arrives."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.mosquitto import Broker
from rigs.processes import wait_until
from rigs.station import BASE, Station

KEEPALIVE_S = 5
TOKEN = "operator-token-0123456789ab"


class Pulse:
    """How long the daemon's door took to answer /livez at worst, asked all the time: a loop that stands shows here."""

    def __init__(self) -> None:
        self.worst_s = 0.0


@contextmanager
def pulse(url: str) -> Iterator[Pulse]:
    felt, end = Pulse(), threading.Event()

    def feel() -> None:
        while not end.wait(0.02):
            began = time.monotonic()
            with suppress(OSError):
                urllib.request.urlopen(f"{url}/livez", timeout=10).read()
            felt.worst_s = max(felt.worst_s, time.monotonic() - began)

    thread = threading.Thread(target=feel, daemon=True)
    thread.start()
    try:
        yield felt
    finally:
        end.set()
        thread.join(11)


def forget(broker: Broker) -> None:
    """What it had saved is gone: sessions, queues, retained messages."""
    broker.kill()
    (broker.home / "mosquitto.db").unlink(missing_ok=True)


@pytest.mark.fault("broker away", matrix=(17, 19, 22))
def test_verdicts_wait_while_the_broker_is_away_in_any_way(start_station: Callable[..., Station], fault: Fault) -> None:
    station = start_station(mqtt=f'confirm = "mes"\nack_timeout_s = 5\nkeepalive_s = {KEEPALIVE_S}', acks=True)
    broker = station.broker

    def away(name: str, how: str, go: Callable[[], object], come: Callable[[], object], down_s: float, detected: float) -> None:
        with station.feeding(rate_per_s=10):
            time.sleep(0.5)
            began = time.monotonic()
            go()
            told = station.wait_health("broker", "down", detected)
            detected_s = time.monotonic() - began
            assert f"127.0.0.1:{broker.port}" in told["cause"] and told["hint"]
            time.sleep(max(0.0, down_s - detected_s))
            before = len(station.mes.results())
            come()
            came = time.monotonic()
            wait_until(lambda: len(station.mes.results()) > before, 40, "the MES hears the next verdict")
            recovered_s = time.monotonic() - came
        station.settle(60)
        note = f"noticed after {detected_s:.1f} s"
        fault.row(how, station.tally(), recovered_s=round(recovered_s, 1), note=note, fault=name, ok=detected_s <= detected)

    away("broker stopped", "SIGTERM, 2 s", broker.stop, broker.start, 2, 9)
    away("broker killed", "kill -9, 2 s", broker.kill, broker.start, 2, 9)
    # It has forgotten the MES too: an event that nobody subscribes to counts as delivered, as the contract says.
    station.kinds = ("result", "wafer")
    away("broker killed, comes back with nothing", "kill -9, its file deleted", lambda: forget(broker), broker.start, 2, 9)
    with pulse(station.daemon.url) as felt:
        away("broker frozen", "SIGSTOP, 10 s", broker.freeze, broker.thaw, 10, 1.5 * KEEPALIVE_S + 5)
    assert felt.worst_s < 3.0, f"the door took {felt.worst_s:.2f} s to answer while the broker was frozen"


ANYONE = "topic readwrite #\n"
WRITES = "\nuser edged\n" + "".join(f"topic write {BASE}/{topic}\n" for topic in ("state", "birth", "health", "telemetry", "event/#"))


def published(station: Station, reason: str) -> int:
    """`edged_publish_total{reason}`."""
    text = urllib.request.urlopen(f"{station.daemon.url}/metrics", timeout=5).read().decode()
    found = re.search(rf'^edged_publish_total{{reason="{reason}"}} ([\d.]+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def retry(station: Station) -> int:
    """POST /api/v1/outbox/retry; how many are sent again."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{station.daemon.url}/api/v1/outbox/retry", b"{}", headers, method="POST")
    with urllib.request.urlopen(request, timeout=15) as answer:
        return int(json.load(answer)["due"])


def reload_acl(broker: Broker, acl: str) -> None:
    (broker.home / "acl").write_text(acl)
    os.kill(broker.pid, signal.SIGHUP)
    wait_until(lambda: "Reloading config" in broker.log.read_text(errors="replace"), 10, "the broker reads its access list anew")
    time.sleep(0.5)


@pytest.mark.fault("broker refuses messages (0x87)", matrix=(26,))
def test_what_the_brokers_access_list_refuses_is_put_aside_told_and_sent_once_it_is_corrected(
    start_station: Callable[..., Station], fault: Fault, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text(f"operator a.meier {TOKEN}\n")
    keys = f'[http]\ntokens_file = "{tmp_path / "tokens"}"\n'
    station = start_station(mqtt='username = "edged"', broker={"acl": ANYONE + WRITES, "extra": "autosave_interval 1"}, toml=keys)
    station.drop(40)
    told = station.wait_health("broker", "degraded", 30)
    wait_until(lambda: "40 are put aside" in station.health()["broker"]["cause"], 20, "all 40 are put aside")
    told = station.health()["broker"]
    assert f"{BASE}/result/cam1/" in told["cause"] and "0x87" in told["cause"] and "access list" in told["hint"]
    assert not station.mes.results()
    event = station.mes.wait_for_event("publish-refused")
    assert "0x87" in event["reason"]

    def numbers() -> set[int]:
        said = station.mes.events("publish-refused")
        return {n for each in said for first, last in each["sequences"] for n in range(first, last + 1)}

    wait_until(lambda: numbers() == set(range(1, 41)), 20, "every number that was refused is told")
    sent = published(station, "0x87")
    time.sleep(3)
    assert published(station, "0x87") == sent == 40  # put aside means put aside
    reload_acl(station.broker, ANYONE + WRITES + f"topic write {BASE}/result/#\n")
    assert not station.mes.results()
    station.over()
    assert retry(station) == 40
    recovered_s = station.settle(30)
    station.wait_health("broker", "ok", 10)
    fault.row("access list denies result/#, 40 images; corrected, retried", station.tally(), recovered_s=recovered_s)
