"""After hours and days without a broker: the backlog drains, oldest first, in little memory, and no fresh verdict waits for it.

The real ledger, the real publisher and the real Mosquitto in one process; the MES is another, so that its memory is not ours.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from contract.ledger_pages import BASE, opened
from contract.test_publisher import plant_runs, until
from contract.test_publisher_ledger import config, recorded
from edged.nouns import VerdictKind
from rigs.backlog import Book, Came, book, multiply, resident_mb
from rigs.faults import Fault
from rigs.mosquitto import Broker

RESULTS = f"{BASE}/result/#"
UNREAD = "ids and order compared, bodies not"
BROKER = "max_queued_messages 0\nmax_inflight_messages 20\nlog_type notice\nlog_type subscribe"


def numbers(ledger: Path, above: int = 0) -> dict[str, int]:
    """Sequence by id."""
    sql = "SELECT id, sequence FROM message WHERE kind = 'result' AND sequence > ?"
    with closing(sqlite3.connect(ledger, timeout=10)) as connection:
        return dict(connection.execute(sql, (above,)))


def due(ledger: Path) -> int:
    sql = "SELECT count(*) FROM outbox o JOIN message m ON m.message = o.message WHERE o.state < 4 AND m.kind = 'result'"
    with closing(sqlite3.connect(ledger, timeout=10)) as connection:
        return int(connection.execute(sql).fetchone()[0])


def disorder(came: Sequence[Came], sequence: dict[str, int]) -> int:
    """How many came for the first time behind a later one of their lane and topic."""
    last: defaultdict[tuple[str, bool], int] = defaultdict(int)
    seen: set[str] = set()
    wrong = 0
    for each in came:
        if each.id in seen:
            continue
        seen.add(each.id)
        lane, number = (each.topic, each.replayed), sequence[each.id]
        wrong += number < last[lane]
        last[lane] = max(last[lane], number)
    return wrong


async def drained(read: Book, rows: int, at_most_s: float) -> float:
    """The most memory of this process until so many have come."""
    deadline, most = time.monotonic() + at_most_s, resident_mb()
    while await asyncio.to_thread(read.look) < rows and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        most = max(most, resident_mb())
    return most


@pytest.mark.parametrize(
    ("rows", "at_most_s"),
    [(4_000, 60.0), pytest.param(100_000, 300.0, marks=pytest.mark.long), pytest.param(2_000_000, 120.0, marks=pytest.mark.long)],
)
@pytest.mark.fault("backlog after an outage", matrix=(17, 18))
async def test_a_backlog_drains_oldest_first_in_little_memory_and_fresh_verdicts_do_not_wait_for_it(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault, rows: int, at_most_s: float
) -> None:
    """Of millions only the first two minutes are looked at; what has not come by then must still be due."""
    broker, file = start_broker(extra=BROKER), tmp_path / "ledger.db"
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(1))
    await asyncio.to_thread(multiply, file, rows)
    with book(broker, RESULTS, tmp_path / "book") as read:
        began, before = time.monotonic(), resident_mb()
        async with opened(tmp_path, retain_rows=10**8, retain_bytes=10**12) as ledger:
            start_s = time.monotonic() - began
            async with plant_runs(config(broker.port), ledger.outbox):
                await until(lambda: read.look() > rows // 100, 30)
                came_by, asked = read.look(), time.monotonic()
                await recorded(ledger, range(rows, rows + 20), VerdictKind.FAIL)
                fresh = set(await asyncio.to_thread(numbers, file, rows))
                most_mb = await drained(read, rows + 20, at_most_s)
                rate = (read.look() - came_by) / (time.monotonic() - asked)
        came, sequence, left = read.came(), numbers(file), due(file)
    there = {each.id for each in came}
    behind = next((place for place, each in enumerate(came) if each.id in fresh), 0)
    in_line = sum(each.id in fresh for each in came[behind : behind + 2000])
    wrong, grown_mb = disorder(came, sequence), most_mb - before
    ok = start_s < 10 and grown_mb < (300 if rows > 10**6 else 50) and wrong == 0 and in_line == 20 and rate >= 500
    note = f"start {start_s:.1f} s, {rate:.0f}/s, +{grown_mb:.0f} MB, {left} still due, {wrong} out of order; {UNREAD}"
    row = {"images": rows + 20, "lost": max(0, rows + 20 - len(there) - left), "doubled": 0}
    fault.row(f"{rows:,} rows undelivered at the start, 20 fresh ones meanwhile", ok=ok, note=note, **row)


@pytest.mark.fault("two lanes, 4 to 1", matrix=(17,))
async def test_four_fresh_verdicts_go_for_one_of_the_backlog(start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault) -> None:
    broker, file = start_broker(extra=BROKER), tmp_path / "ledger.db"
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(1))
    multiply(file, 3000)
    with book(broker, RESULTS, tmp_path / "book") as read:
        async with opened(tmp_path) as ledger, plant_runs(config(broker.port), ledger.outbox):
            await until(lambda: read.look() > 20)
            broker.freeze()  # both lanes fill
            await recorded(ledger, range(3000, 3800), VerdictKind.PASS)
            broker.thaw()
            await drained(read, 3800, 30)
        came, sequence = read.came(), numbers(file)
    places = [place for place, each in enumerate(came) if sequence[each.id] > 3000]
    while_both = came[places[20] : places[-1]]
    fresh = sum(sequence[each.id] > 3000 for each in while_both)
    share = fresh / max(1, len(while_both) - fresh)
    lost = len(sequence) - len({each.id for each in came})
    note, ok = f"{share:.2f} fresh ones for one of the backlog; {UNREAD}", 3.5 <= share <= 4.5 and disorder(came, sequence) == 0
    fault.row("3,000 old and 800 fresh rows wait", images=len(sequence), lost=lost, doubled=0, ok=ok, note=note)


@pytest.mark.fault("drain capped", matrix=(17,))
async def test_the_backlog_drains_no_faster_than_asked(start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault) -> None:
    broker, file = start_broker(extra=BROKER), tmp_path / "ledger.db"
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(1))
    multiply(file, 1200)
    with book(broker, RESULTS, tmp_path / "book") as read:
        async with opened(tmp_path) as ledger, plant_runs(config(broker.port, drain_max_per_s=200), ledger.outbox):
            await until(lambda: read.look() > 0)
            began = time.monotonic()
            await recorded(ledger, range(1200, 1300), VerdictKind.FAIL)
            await asyncio.sleep(2)
            fresh = sum(each.topic.endswith("fail") for each in read.came())
            await drained(read, 1300, 30)
            drained_s = time.monotonic() - began
        came = read.came()
    rate = 1200 / drained_s
    lost, note = 1300 - len({each.id for each in came}), f"{rate:.0f}/s; {UNREAD}"
    fault.row("drain_max_per_s = 200, 1,200 rows", images=1300, lost=lost, doubled=0, ok=fresh == 100 and rate <= 210, note=note)
