"""Messages that a broker does not take: each is found and put aside, those behind it go on, and no innocent one is condemned.

The real ledger, the real publisher and the real Mosquitto in one process.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from contract.ledger_pages import HeardBoard, opened, page
from contract.test_publisher import plant_runs, until
from contract.test_publisher_ledger import config, recorded
from edged.backoff import Backoff
from edged.nouns import HealthStatus, VerdictKind
from faults.test_broker_promises import confirmed, mes_of, told
from rigs.faults import Fault
from rigs.mosquitto import Broker
from rigs.proxy import Proxy

AS_SHIPPED = Backoff(first_s=1.0, cap_s=30.0)
POISON = "/".join("x" * 300)
"""More topic levels than Mosquitto takes: it drops the connection."""


def parked(ledger: Path) -> list[tuple[int, str]]:
    """Sequence and reason of each result that is put aside."""
    sql = "SELECT m.sequence, o.reason FROM outbox o JOIN message m ON m.message = o.message WHERE o.state = 3 ORDER BY 1"
    with closing(sqlite3.connect(ledger, timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def strikes(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger, timeout=10)) as connection:
        return int(connection.execute("SELECT sum(strikes) FROM outbox").fetchone()[0])


@pytest.mark.fault("poison rows", matrix=(27,))
async def test_a_row_that_makes_the_broker_drop_us_is_put_aside_and_those_behind_it_arrive_within_15_s(
    broker: Broker, tmp_path: Path, fault: Fault
) -> None:
    board = HeardBoard()
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        await recorded(ledger, range(50))
        await ledger.record([page(b"poison.png", b"poison", camera=POISON)])
        await recorded(ledger, range(50, 100))
        began = time.monotonic()
        async with plant_runs(config(broker.port), ledger.outbox, board, backoff=AS_SHIPPED):
            await confirmed(ledger, 100, 30)
            behind_s = time.monotonic() - began
            await until(lambda: bool(mes.events("row-parked")))
            await until(lambda: board.last["broker"][0] is HealthStatus.DEGRADED)
            assert "1 are put aside" in board.last["broker"][1] and "3 times" in board.last["broker"][1]
        found = told(tmp_path, mes)
        (sequence, _), event = parked(tmp_path / "ledger.db")[0], mes.events("row-parked")[0]
        assert event["sequences"] == [[sequence, sequence]]
    row = {"images": 100, "lost": found.lost - 1, "doubled": found.two_bodies, "recovered_s": round(behind_s, 1)}
    fault.row("300 topic levels, 50 rows before and behind it", ok=behind_s < 15 and len(parked(tmp_path / "ledger.db")) == 1, **row)


@pytest.mark.parametrize("announced", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.fault("oversize row", matrix=(27,))
async def test_a_row_that_is_too_large_for_the_broker_is_put_aside(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, announced: bool
) -> None:
    """A limit that the broker announces costs nothing; one that it keeps to itself makes it drop the connection."""
    broker = start_broker(max_packet_size=4000 if announced else None, extra="" if announced else "message_size_limit 3500")
    answers = list[str]()
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        await recorded(ledger, range(20))
        large = page(b"large.png", b"large", verdict=VerdictKind.FAIL)
        await ledger.record([replace(large, verdict=replace(large.verdict, defects=large.verdict.defects * 60))])
        await recorded(ledger, range(20, 40))
        began = time.monotonic()
        async with plant_runs(config(broker.port), ledger.outbox, published=answers.append, backoff=AS_SHIPPED):
            await confirmed(ledger, 40, 30)
            behind_s = time.monotonic() - began
            await until(lambda: len(parked(tmp_path / "ledger.db")) == 1)
            await until(lambda: bool(mes.events("row-parked")))
        found = told(tmp_path, mes)
        (_, reason) = parked(tmp_path / "ledger.db")[0]
    assert ("lost" in answers) is not announced
    assert ("the broker takes 4000" if announced else "dropped the connection 3 times") in reason
    row = {"images": 40, "lost": found.lost - 1, "doubled": found.two_bodies, "recovered_s": round(behind_s, 1)}
    fault.row("above the announced limit" if announced else "above a limit that is not announced", ok=behind_s < 15, **row)


@pytest.mark.parametrize(("seconds", "delay_s"), [(5, 0.02), *(pytest.param(60, s, marks=pytest.mark.long) for s in (0.0, 0.005, 0.02))])
@pytest.mark.fault("flapping broker", matrix=(25, 27))
async def test_a_flapping_broker_condemns_no_innocent_row(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, seconds: int, delay_s: float
) -> None:
    """Thousands of rows, and the line is reset again and again while they are on their way."""
    broker, chance, answers = start_broker(extra="max_queued_messages 0"), random.Random(7), list[str]()
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        with Proxy(broker.port) as line:
            line.delay_s = delay_s
            every = Backoff(first_s=0.02, cap_s=0.1)
            async with plant_runs(config(line.port), ledger.outbox, published=answers.append, backoff=every):
                end, number = time.monotonic() + seconds, 0
                while time.monotonic() < end:
                    if answers.count("0x00") > number - 1000:  # else it only grows
                        await recorded(ledger, range(number, number + 100))
                        number += 100
                    await asyncio.sleep(chance.uniform(0.05, 0.6))
                    await asyncio.to_thread(line.reset_all)
                line.delay_s, began = 0.0, time.monotonic()
                await confirmed(ledger, number, 60)
                recovered_s = time.monotonic() - began
                flaps = line.connections
        await until(lambda: told(tmp_path, mes).lost == 0, 20)
        found = told(tmp_path, mes)
    aside = parked(tmp_path / "ledger.db")
    note = f"{flaps} connections, {strikes(tmp_path / 'ledger.db')} strikes, {len(aside)} put aside"
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1)}
    fault.row(
        f"reset every 0.05 to 0.6 s for {seconds} s, {delay_s * 1000:g} ms away", ok=not aside and "lost" in answers, note=note, **row
    )
