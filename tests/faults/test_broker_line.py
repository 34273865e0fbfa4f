"""The line to the broker is bad: acknowledgements get lost, it is cut in the middle of a message, half-open, lossy, slow.

The real ledger, the real publisher and the real Mosquitto in one process; the wire is a network namespace's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contract.ledger_pages import HeardBoard, opened
from contract.test_publisher import plant_runs, until
from contract.test_publisher_ledger import config, recorded
from edged.backoff import Backoff
from edged.nouns import HealthStatus
from faults.test_broker_poison import parked
from faults.test_broker_promises import confirmed, mes_of, told
from rigs.faults import Fault
from rigs.mosquitto import Broker
from rigs.network import plant_network
from rigs.processes import free_port
from rigs.proxy import Proxy

QUICK = Backoff(first_s=0.02, cap_s=0.1)
KEEPALIVE_S = 5


@asynccontextmanager
async def beating() -> AsyncIterator[list[float]]:
    """The longest time for which the event loop stood, as the only element."""
    longest = [0.0]

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest[0], last = max(longest[0], now - last - 0.005), now

    task = asyncio.create_task(beat())
    try:
        yield longest
    finally:
        task.cancel()


@pytest.mark.fault("lost PUBACKs", matrix=(24,))
async def test_rows_whose_acknowledgement_gets_lost_come_twice_with_one_body(broker: Broker, tmp_path: Path, fault: Fault) -> None:
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        with Proxy(broker.port) as line:
            async with plant_runs(config(line.port), ledger.outbox, backoff=QUICK) as plant:
                await until(lambda: plant.snapshot().connected)
                await asyncio.sleep(0.3)
                line.deaf = True
                await recorded(ledger, range(100))
                await until(lambda: len(mes.results()) >= 15, 20)  # as many as the broker lets us send unanswered
                assert told(tmp_path, mes).open == 100
                line.deaf, began = False, time.monotonic()
                await asyncio.to_thread(line.reset_all)
                await confirmed(ledger, 100)
                recovered_s = time.monotonic() - began
        await until(lambda: told(tmp_path, mes).lost == 0 and len(mes.results()) >= 115)
        found = told(tmp_path, mes)
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1)}
    fault.row("100 rows, no answer comes back, then RST", note=f"{found.sent} arrivals", **row)


@pytest.mark.fault("RST in the middle of a message", matrix=(24,))
async def test_a_message_cut_at_any_byte_arrives_whole(broker: Broker, tmp_path: Path, fault: Fault) -> None:
    chance = random.Random(3)
    async with opened(tmp_path) as ledger, mes_of(broker) as mes:
        with Proxy(broker.port) as line:
            async with plant_runs(config(line.port), ledger.outbox, backoff=QUICK) as plant:
                for number in range(30):
                    await until(lambda: plant.snapshot().connected and line.cut_after is None)
                    line.cut_after = chance.randrange(1, 12_000)
                    await recorded(ledger, range(number * 5, number * 5 + 5))
                    await asyncio.sleep(0.05)
                line.cut_after = None
                await confirmed(ledger, 150)
                cuts = line.connections - 1
        await until(lambda: told(tmp_path, mes).lost == 0)
        found = told(tmp_path, mes)
    aside = parked(tmp_path / "ledger.db")
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies}
    fault.row(f"cut {cuts} times after 1 to 12,000 bytes", ok=cuts > 10 and not aside, **row)


@pytest.mark.fault("line cut, half-open", matrix=(22, 25))
async def test_a_line_that_is_cut_without_a_word_is_noticed_and_comes_back(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault
) -> None:
    board = HeardBoard()
    with plant_network() as network:
        side = free_port()
        broker = start_broker(host=network.there, inside=network.inside, extra=f"listener {side} {network.there}")
        mqtt = config(broker.port, host=network.there, keepalive_s=KEEPALIVE_S)
        async with (
            opened(tmp_path) as ledger,
            mes_of(broker, port=side) as mes,
            plant_runs(mqtt, ledger.outbox, board, backoff=None) as plant,
        ):
            await recorded(ledger, range(100))
            await until(lambda: len(mes.results()) >= 100)
            network.drop(broker.port)
            began = time.monotonic()
            async with beating() as longest:
                await recorded(ledger, range(100, 600))
                await until(lambda: not plant.snapshot().connected, 30)
                noticed_s = time.monotonic() - began
                assert board.last["broker"][0] is HealthStatus.DOWN and "no longer answers" in board.last["broker"][1]
                await asyncio.sleep(1.5)  # it dials on
                stood_s = longest[0]
            network.mend()
            began = time.monotonic()
            await confirmed(ledger, 600, 60)
            recovered_s = time.monotonic() - began
            await until(lambda: told(tmp_path, mes).lost == 0)
            found = told(tmp_path, mes)
        aside = parked(tmp_path / "ledger.db")
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1)}
    note = f"noticed after {noticed_s:.1f} s, the loop stood {stood_s * 1000:.0f} ms"
    fault.row("iptables DROP, 500 rows meanwhile", ok=noticed_s <= 1.5 * KEEPALIVE_S + 5 and not aside, note=note, **row)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [20, 600])
@pytest.mark.fault("lossy, slow, flapping line", matrix=(25,))
async def test_a_line_that_loses_a_third_and_goes_away_every_5_s_loses_nothing(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, seconds: int
) -> None:
    answers, number = list[str](), 0
    with plant_network() as network:
        side = free_port()
        broker = start_broker(host=network.there, inside=network.inside, extra=f"listener {side} {network.there}\nmax_queued_messages 0")
        network.slow(256)
        network.lose(broker.port, 0.3)
        mqtt = config(broker.port, host=network.there, keepalive_s=KEEPALIVE_S)
        async with opened(tmp_path) as ledger, mes_of(broker, port=side) as mes:
            async with plant_runs(mqtt, ledger.outbox, published=answers.append, backoff=None):
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    for away in (False, True):
                        if away:
                            network.drop(broker.port)
                        await recorded(ledger, range(number, number + 20))
                        number += 20
                        await asyncio.sleep(5)
                    network.mend()
                    network.lose(broker.port, 0.3)
                network.mend()
                network.fast()
                began = time.monotonic()
                await confirmed(ledger, number, 120)
                recovered_s = time.monotonic() - began
            await until(lambda: told(tmp_path, mes).lost == 0, 30)
            found = told(tmp_path, mes)
    aside = parked(tmp_path / "ledger.db")
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1)}
    note = f"{answers.count('lost')} rows lost on their way and sent again, {len(aside)} put aside"
    fault.row(f"30 % loss, 256 kbit/s, 5 s up and 5 s down, {seconds} s", ok=not aside, note=note, **row)
