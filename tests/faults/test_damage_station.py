"""A whole station whose ledger is damaged between two starts, and an older or newer edged on the same ledger."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page
from rigs.daemon import ONE_CAMERA, Daemon
from rigs.faults import Fault
from rigs.ledger_files import PAGE, aged, overwrite, pages_with
from rigs.mosquitto import Broker
from rigs.processes import free_port, wait_until
from rigs.station import Station


def bodies(file: Path) -> None:
    overwrite(file, pages_with(file, b"specversion")[:3], 1)


def first_page(file: Path) -> None:
    overwrite(file, [1], 2)


def zero_page(file: Path) -> None:
    content = bytearray(file.read_bytes())
    (at, *_) = pages_with(file, b"specversion")
    content[(at - 1) * PAGE : at * PAGE] = bytes(PAGE)
    file.write_bytes(content)


def half(file: Path) -> None:
    with file.open("r+b") as whole:
        whole.truncate(file.stat().st_size // 2)


def garbage(file: Path) -> None:
    file.write_bytes(b"this is no database\n" * 2000)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def log_cut(file: Path) -> None:
    log = file.with_name("ledger.db-wal")
    with log.open("r+b") as whole:
        whole.truncate(log.stat().st_size * 3 // 4)


def log_garbled(file: Path) -> None:
    log = file.with_name("ledger.db-wal")
    overwrite(log, [log.stat().st_size // PAGE // 2], 3)


def log_gone(file: Path) -> None:
    file.with_name("ledger.db-wal").unlink()


def one_byte(file: Path) -> None:
    """In a message: SQLite does not notice."""
    content = bytearray(file.read_bytes())
    content[content.index(b'"verdict":"') + 12] ^= 1
    file.write_bytes(content)


IN_PAGES = (bodies, one_byte, zero_page, first_page, half, garbage, empty)
IN_LOG = (log_cut, log_garbled, log_gone)
QUICK = (log_cut, bodies, garbage)


def restarted(daemon: Daemon) -> int:
    """As systemd would; returns how often it had to be started again."""
    for again in range(4):
        daemon.start(ready=False)
        time.sleep(1)
        if daemon.running:
            wait_until(lambda: not daemon.running or daemon.get("/readyz") is not None, 45, "it is ready")
        if daemon.running:
            return again
        assert daemon.wait() == 1
    raise AssertionError(f"a crash loop: {daemon.said()}")


def ids(station: Station) -> dict[tuple[object, int], str]:
    rows = station.rows()
    found = {(row.image, row.page): row.id for row in rows}
    assert len(found) == len(rows), "a page has two verdicts"
    return found


@pytest.mark.parametrize("damages", [pytest.param(QUICK), pytest.param((*IN_LOG, *IN_PAGES), marks=pytest.mark.long)])
@pytest.mark.fault("ledger damaged between two starts", matrix=(48,))
def test_a_station_with_a_damaged_ledger_rebuilds_it_says_what_is_lost_and_judges_again(
    start_station: Callable[..., Station], fault: Fault, damages: tuple[Callable[[Path], None], ...]
) -> None:
    station = start_station()
    slowest_s, lost, unsaid = 0.0, 0, 0
    for count, damage in enumerate(damages, 1):
        station.drop(15)
        wait_until(lambda: station.tally().lost == 0, 60, "every image has its verdict, and the MES has it")
        before = ids(station)
        messages = numbers(station.ledger)  # while the daemon runs: the last one to close a ledger writes its log back
        if damage in IN_PAGES:
            assert station.daemon.stop() == 0
        else:
            station.daemon.kill()  # its log stays
        damage(station.ledger)
        began = time.monotonic()
        restarts = restarted(station.daemon)
        slowest_s = max(slowest_s, time.monotonic() - began - 1 - restarts)
        assert restarts <= 1, damage.__name__
        wait_until(lambda n=count: len(station.mes.events("ledger-set-aside")) == n, 30, f"the MES hears of the damage ({damage.__name__})")  # type: ignore[misc]
        assert len(list((station.daemon.state / "set-aside").iterdir())) == count
        data = station.mes.events("ledger-set-aside")[-1]
        try:
            wait_until(lambda b=before: ids(station).keys() >= b.keys(), 40, "every image has a verdict again")  # type: ignore[misc]
        except AssertionError:
            missing = before.keys() - ids(station).keys()
            raise AssertionError(
                f"{damage.__name__}: {len(missing)} of {len(before)} without verdict: {missing}; {data}; {station.complaints()}"
            ) from None
        assert {each: id_ for each, id_ in ids(station).items() if each in before} == before, "another id for the same image"
        if data["lost_messages"] is not None:
            unsaid += abs(messages - data["salvaged"]["message"] - data["lost_messages"])
        lost += data["lost_messages"] or 0
        assert station.health()["ledger"]["status"] == "ok"
    station.drop(5)
    wait_until(lambda: station.tally().lost == 0, 60, "every image has its verdict, and the MES has it")
    tally = station.tally()
    assert tally.recorded == tally.images
    fault.row(
        how=f"{len(damages)} damages: {', '.join(damage.__name__.replace('_', ' ') for damage in damages)}",
        images=tally.images,
        lost=tally.lost + unsaid,
        doubled=tally.doubled + tally.strange,
        recovered_s=round(slowest_s, 1),
        note=f"{lost} messages said to be lost, their images judged again under the same ids",
    )


def numbers(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as connection:
        return int(connection.execute("SELECT count(*) FROM message").fetchone()[0])


async def owed(state: Path, count: int) -> dict[int, tuple[str, bytes]]:
    async with opened(state) as ledger:
        for first in range(0, count, 500):
            pages = (page(b"%d.png" % n, b"content %d" % n) for n in range(first, min(first + 500, count)))
            await asyncio.gather(*(ledger.record([each]) for each in pages))
        return {row.sequence: (row.id, row.body) for row in await ledger.outbox.due("backlog", count, 0, 2**62)}


@pytest.mark.parametrize("count", [pytest.param(1000), pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.fault("upgrade and downgrade", matrix=(47,))
def test_an_older_ledgers_outbox_is_delivered_and_a_newer_ledger_is_refused_for_good(
    start_daemon: Callable[..., Daemon], start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, count: int
) -> None:
    broker = start_broker(extra="max_queued_messages 0")  # else it drops what the subscriber is too slow for
    (tmp_path / "drop").mkdir()
    daemon = start_daemon(ONE_CAMERA.format(triton=free_port(), mqtt=broker.port, folder=tmp_path / "drop"), run=False)
    rows = asyncio.run(owed(daemon.state, count))
    aged(daemon.state / "ledger.db")
    (daemon.state / "ledger.mark").unlink()
    mes = broker.listen("acme/fab2/litho/INSP07/edged/v1/result/#")
    began = time.monotonic()
    daemon.start(ready=False)
    wait_until(lambda: len(mes.messages) >= count, 60 + count / 20, "the old rows are delivered")
    took_s = time.monotonic() - began
    came = {(int(said["sequence"]), said["id"], message.payload) for message in mes.messages if (said := json.loads(message.payload))}
    heard = {number: (id_, body) for number, id_, body in came}
    wait_until(lambda: daemon.get("/api/v1/status")["outbox"]["undelivered"] == 0, 20, "nothing is owed")
    assert daemon.run("db", "check").returncode == 0
    assert daemon.stop() == 0

    with closing(sqlite3.connect(daemon.state / "ledger.db")) as connection, connection:
        connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('edged', 'colours', '2031-01-01')")
    content = (daemon.state / "ledger.db").read_bytes()
    daemon.start(wait=False)
    assert daemon.wait() == 78, "systemd must not try again"
    assert "a newer edged has changed it (colours). Start the newer edged again" in daemon.said()
    assert (daemon.state / "ledger.db").read_bytes() == content
    assert not (daemon.state / "set-aside").exists()
    refused = daemon.run("db", "check", check=False)
    assert refused.returncode == 78
    lost = sum(heard.get(number) != row for number, row in rows.items())
    fault.row(
        f"{count} rows owed by the first schema; a schema of the future ends with 78",
        images=count,
        lost=lost,
        doubled=len(came) - len(heard),
        recovered_s=round(took_s, 1),
    )
