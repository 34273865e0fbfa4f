"""A broker that takes messages and loses them: with `confirm = "mes"` only the MES's own word lets a row go.

The real ledger, the real publisher and the real Mosquitto in one process, an MES with a session of its own.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import BASE, STATION, HeardBoard, opened
from contract.test_publisher import plant_runs, until
from contract.test_publisher_ledger import config, recorded
from edged.ledger import Ledger
from edged.nouns import HealthStatus, VerdictKind
from rigs.delivery import Delivery, delivery
from rigs.faults import Fault
from rigs.mes import Mes
from rigs.mosquitto import Broker

NEVER_SAVED = "autosave_interval 0"
"""What Mosquitto does not save before the end of a clean stop, a kill takes with it."""


@asynccontextmanager
async def mes_of(broker: Broker, **options: Any) -> AsyncIterator[Mes]:
    port = options.pop("port", broker.port)
    mes = await asyncio.to_thread(Mes, port, BASE, host=broker.options.host, **options)
    try:
        yield mes
    finally:
        await asyncio.to_thread(mes.close)


def told(folder: Path, mes: Mes) -> Delivery:
    return delivery(folder / "ledger.db", list(mes.arrivals))


async def confirmed(ledger: Ledger, rows: int, timeout_s: float = 60) -> None:
    """Until every one of so many results is delivered."""

    def there() -> bool:
        with closing(sqlite3.connect(ledger._path, timeout=10)) as connection:
            sql = "SELECT count(*) FROM outbox o JOIN message m ON m.message = o.message WHERE m.kind = 'result' AND o.state = 4"
            return bool(connection.execute(sql).fetchone()[0] >= rows)

    await until(there, timeout_s)


@pytest.mark.parametrize("confirm", ["broker", "mes"])
@pytest.mark.fault("broker killed right after its PUBACKs", matrix=(19,))
async def test_what_a_killed_broker_had_acknowledged_reaches_the_mes_only_if_the_mes_has_to_say_so(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, confirm: str
) -> None:
    broker, answers = start_broker(extra=NEVER_SAVED), list[str]()
    async with opened(tmp_path) as ledger, mes_of(broker, acks=True) as mes:
        await asyncio.to_thread(mes.leave)
        await asyncio.to_thread(broker.restart)  # it now knows the MES's session for good
        async with plant_runs(config(broker.port, confirm=confirm, ack_timeout_s=2), ledger.outbox, published=answers.append):
            await recorded(ledger, range(50))
            await until(lambda: answers.count("0x00") >= 50)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            began = time.monotonic()
            await asyncio.to_thread(mes.connect)
            if confirm == "broker":
                await asyncio.sleep(2.5)
            else:
                await confirmed(ledger, 50)
            recovered_s = time.monotonic() - began
        found = told(tmp_path, mes)
    how = f'kill -9 after 50 PUBACKs, confirm = "{confirm}"'
    if confirm == "broker":
        fault.control(how, images=found.rows, lost=found.lost)
    else:
        fault.row(how, images=found.rows, lost=found.lost, doubled=found.two_bodies, recovered_s=round(recovered_s, 1), ok=found.open == 0)


@pytest.mark.parametrize("confirm", ["broker", "mes"])
@pytest.mark.fault("MES away longer than the broker's queue", matrix=(20,))
async def test_an_mes_away_longer_than_the_brokers_queue_gets_every_verdict_in_the_end(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, confirm: str
) -> None:
    broker, answers = start_broker(extra="max_queued_messages 1000"), list[str]()
    async with opened(tmp_path) as ledger, mes_of(broker, acks=True) as mes:
        await asyncio.to_thread(mes.leave)
        async with plant_runs(config(broker.port, confirm=confirm, ack_timeout_s=5), ledger.outbox, published=answers.append):
            await recorded(ledger, range(1500))
            await until(lambda: answers.count("0x00") >= 1500, 30)
            began = time.monotonic()
            await asyncio.to_thread(mes.connect)
            if confirm == "broker":
                await until(lambda: len(mes.results()) >= 1000)
                await asyncio.sleep(1)
            else:
                await confirmed(ledger, 1500, 120)
            recovered_s = time.monotonic() - began
            sent = answers.count("0x00")
        found = told(tmp_path, mes)
    how = f'1500 verdicts, queue of 1000, confirm = "{confirm}"'
    if confirm == "broker":
        fault.control(how, images=found.rows, lost=found.lost)
        return
    note, well = f"{sent} sendings", found.open == 0 and sent <= 3 * 1500
    fault.row(how, images=1500, lost=found.lost, doubled=found.two_bodies, recovered_s=round(recovered_s, 1), ok=well, note=note)


@pytest.mark.parametrize("confirm", ["broker", "mes"])
@pytest.mark.fault("MES session expired", matrix=(21,))
async def test_verdicts_wait_while_nobody_subscribes_and_health_names_the_topic(
    broker: Broker, tmp_path: Path, fault: Fault, confirm: str
) -> None:
    board, answers = HeardBoard(), list[str]()
    async with opened(tmp_path) as ledger, mes_of(broker, expiry_s=0, acks=True) as mes:
        mqtt = config(broker.port, confirm=confirm, ack_timeout_s=60)
        async with plant_runs(mqtt, ledger.outbox, board, published=answers.append, probe_s=1.0) as plant:
            await recorded(ledger, range(20))
            await until(lambda: len(mes.results()) >= 20)
            await asyncio.to_thread(mes.leave)  # its session ends with the connection
            began = time.monotonic()
            await recorded(ledger, range(20, 120))
            await recorded(ledger, range(120, 220), VerdictKind.FAIL)
            await until(lambda: len(plant.snapshot().held) == 2, 60)
            alarm_s = time.monotonic() - began
            await until(lambda: board.last["broker"][0] is HealthStatus.DEGRADED)
            assert f"nobody subscribes to {BASE}/result/cam1/" in board.last["broker"][1]
            await asyncio.sleep(2)
            assert answers.count("0x10") <= 250 + 10  # one row a topic and probe, not all of them again and again
            began = time.monotonic()
            await asyncio.to_thread(mes.connect)
            await until(lambda: told(tmp_path, mes).lost == 0)
            recovered_s = time.monotonic() - began
            await confirmed(ledger, 220)
            await until(lambda: board.last["broker"][0] is HealthStatus.OK)
        found = told(tmp_path, mes)
    events = [(each["topic"].rpartition("/")[2], each["state"]) for each in mes.events("no-subscriber")]
    assert sorted(events) == [("fail", "released"), ("pass", "released")]  # that nobody subscribes nobody could hear
    how, note = f'0x10 for 200 verdicts, confirm = "{confirm}"', f"alarm after {alarm_s:.1f} s"
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1), "note": note}
    fault.row(how, ok=found.open == 0 and alarm_s < 60, **row)


@pytest.mark.fault("forged acknowledgement", matrix=(21,))
async def test_a_forged_acknowledgement_deletes_nothing_and_lets_go_nothing_that_was_not_sent(
    broker: Broker, tmp_path: Path, fault: Fault
) -> None:
    forger = broker.listen("nothing")
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        async with plant_runs(config(broker.port, confirm="mes", ack_timeout_s=60), ledger.outbox, probe_s=1.0) as plant:
            await recorded(ledger, range(30))
            await until(lambda: len(mes.results()) >= 30)
            await asyncio.to_thread(mes.leave)
            await asyncio.to_thread(_forget_session, broker)
            await recorded(ledger, range(30, 60))
            await until(lambda: bool(plant.snapshot().held))
            ack = {"source": STATION.source, "epoch": ledger.epoch, "kind": "result", "up_to_sequence": 10**12}
            for forged in (ack, {**ack, "missing": [[2, 2**62]]}, {**ack, "up_to_sequence": -1}, {**ack, "epoch": "another"}):
                await asyncio.to_thread(forger.publish, f"{BASE}/ack", json.dumps(forged))
            await confirmed(ledger, 30)
            mes.acks = True
            await asyncio.to_thread(mes.connect)
            await until(lambda: told(tmp_path, mes).lost == 0)
            await confirmed(ledger, 60)
            # What the forger made us believe can still be asked for.
            first = mes.results()[0]
            assert await ledger.outbox.republish(first.id)
            await until(lambda: sum(each.id == first.id for each in mes.results()) == 2)
        found = told(tmp_path, mes)
    fault.row("up to 10^12, for 30 sent and 30 unsent", images=found.rows, lost=found.lost, doubled=found.two_bodies, ok=found.rows == 60)


def _forget_session(broker: Broker) -> None:
    """The MES's session at the broker ends."""
    Mes(broker.port, BASE, expiry_s=0).close()


@pytest.mark.fault("acknowledgements of an older epoch", matrix=(21, 48))
async def test_acknowledgements_of_an_older_epoch_are_honoured(broker: Broker, tmp_path: Path, fault: Fault) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(200))
        old = ledger.epoch
    file = tmp_path / "ledger.db"
    with closing(sqlite3.connect(file)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'landing_base'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * size : page * size] = bytes(range(256)) * (size // 256)
    file.write_bytes(content)
    async with opened(tmp_path) as ledger, mes_of(broker, acks=True) as mes:
        assert ledger.epoch != old
        await recorded(ledger, range(200, 240))
        async with plant_runs(config(broker.port, confirm="mes", ack_timeout_s=60), ledger.outbox):
            await confirmed(ledger, 240)
        found = told(tmp_path, mes)
        epochs = [each.epoch for each in mes.results()]
    assert (epochs.count(old), epochs.count(ledger.epoch)) == (200, 40)
    fault.row("200 of the old, 40 of the new", images=found.rows, lost=found.lost, doubled=found.two_bodies, ok=found.open == 0)
