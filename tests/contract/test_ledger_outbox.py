"""The outbox: rows are due until somebody's word lets them go."""

from __future__ import annotations

import asyncio
from pathlib import Path

from contract.ledger_pages import BASE, opened, page
from edged.failpoints import arm
from edged.ledger import Ledger
from edged.nouns import OutboxRow, VerdictKind

PASSED = f"{BASE}/result/cam1/pass"
FAILED = f"{BASE}/result/cam1/fail"


async def recorded(ledger: Ledger, count: int, first: int = 0, verdict: VerdictKind = VerdictKind.PASS) -> None:
    await asyncio.gather(
        *(ledger.record([page(b"%d.png" % number, b"%d" % number, verdict=verdict)]) for number in range(first, first + count))
    )


async def due(ledger: Ledger, limit: int = 10_000) -> list[OutboxRow]:
    return await ledger.outbox.due("backlog", limit, 0, 2**62)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_rows_are_read_in_pages_by_number_and_split_by_the_mark(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 5)
        mark = await ledger.outbox.mark()
        await recorded(ledger, 3, first=5)
        assert [row.sequence for row in await ledger.outbox.due("backlog", 100, 0, mark)] == [1, 2, 3, 4, 5]
        assert [row.sequence for row in await ledger.outbox.due("fresh", 2, 0, mark)] == [6, 7]
        (last,) = await ledger.outbox.due("fresh", 2, mark + 2, mark)
        assert (last.sequence, last.replayed) == (8, False)
        assert all(row.replayed for row in await ledger.outbox.due("backlog", 100, 0, mark))


async def test_the_hint_is_set_after_each_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        ledger.outbox.fresh.clear()
        await recorded(ledger, 1)
        assert ledger.outbox.fresh.is_set()
        ledger.outbox.fresh.clear()
        await ledger.announce("disk", {})
        assert ledger.outbox.fresh.is_set()


async def test_a_delivered_row_is_due_no_more_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 3)
        rows = await due(ledger)
        await ledger.outbox.delivered([rows[0].row, rows[2].row])
    async with opened(tmp_path) as ledger:
        assert [row.sequence for row in await due(ledger)] == [2]


async def test_a_lost_row_stays_and_counts_its_attempt(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 1)
        (row,) = await due(ledger)
        await ledger.outbox.lost([row.row])
        assert [await ledger.outbox.struck(row.row) for _ in range(3)] == [1, 2, 3]
        (again,) = await due(ledger)
        assert (again.attempt, again.body, again.replayed) == (1, row.body, True)


async def test_a_parked_row_is_announced_in_the_same_transaction_and_can_be_sent_once_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 2)
        first, second = await due(ledger)
        await ledger.outbox.park([first.row], "refused", ("row-parked", {"sequences": [first.sequence]}))
        left, event = await due(ledger)
        assert left.row == second.row
        assert event.topic == f"{BASE}/event/row-parked"
        generation = ledger.outbox.generation
        assert await ledger.outbox.unpark() == 1
        assert ledger.outbox.generation > generation
        assert first.row in {row.row for row in await due(ledger)}


async def test_a_held_topic_holds_its_own_rows_only_and_what_comes_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 2)
        await recorded(ledger, 1, first=2, verdict=VerdictKind.FAIL)
        rows = [row.row for row in await due(ledger) if row.topic == PASSED]
        await ledger.outbox.hold(PASSED, rows, ("no-subscriber", {"topic": PASSED}))
        await recorded(ledger, 2, first=3)
        assert {row.topic for row in await due(ledger)} == {FAILED, f"{BASE}/event/no-subscriber"}
        assert await ledger.outbox.held_topics() == (PASSED,)
        probe = await ledger.outbox.probe(PASSED)
        assert probe is not None
        assert (probe.row, probe.sequence) == (rows[0], 1)
    async with opened(tmp_path) as ledger:
        assert await ledger.outbox.held_topics() == (PASSED,)  # a restart does not forget
        await ledger.outbox.delivered([rows[0]])
        await ledger.outbox.release(PASSED, None)
        assert [row.sequence for row in await due(ledger) if row.topic == PASSED] == [2, 4, 5]
        assert await ledger.outbox.probe(PASSED) is None


async def test_thousands_of_held_rows_are_released_in_pieces_between_which_verdicts_are_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 1)
        await ledger.outbox.hold(PASSED, [row.row for row in await due(ledger)], None)
        await recorded(ledger, 3000, first=1)
        assert await due(ledger) == []
        release = asyncio.ensure_future(ledger.outbox.release(PASSED, None))
        await recorded(ledger, 1, first=5000, verdict=VerdictKind.FAIL)
        assert not release.done()
        await release
        rows = await due(ledger)
        assert len(rows) == 3002
        assert [row.row for row in rows] == sorted(row.row for row in rows)


async def test_a_republished_message_keeps_its_id_and_its_body(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 1)
        (row,) = await due(ledger)
        await ledger.outbox.delivered([row.row])
        assert await ledger.outbox.republish(row.id)
        (again,) = await ledger.outbox.due("fresh", 10, 0, 0)
        assert (again.id, again.body, again.replayed) == (row.id, row.body, True)
        assert not await ledger.outbox.republish("00000000-0000-8000-8000-000000000000")


async def test_only_the_mes_lets_go_of_an_accepted_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 5)
        rows = await due(ledger)
        await ledger.outbox.accepted([row.row for row in rows[:4]], 60.0)
        assert [row.sequence for row in await due(ledger)] == [5]
        assert await ledger.outbox.acknowledge(ledger.epoch, "result", 3, [], ack_timeout_s=60.0) == 3
        assert await ledger.outbox.acknowledge("other", "result", 9, [], ack_timeout_s=60.0) == 0
        assert await ledger.outbox.acknowledge(ledger.epoch, "wafer", 9, [], ack_timeout_s=60.0) == 0
        # A forged word for what was never sent delivers nothing.
        assert await ledger.outbox.acknowledge(ledger.epoch, "result", 999, [], ack_timeout_s=60.0) == 1
        assert [row.sequence for row in await due(ledger)] == [5]


async def test_the_mes_may_be_quicker_than_the_brokers_answer(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 2)
        rows = await due(ledger)
        done = await ledger.outbox.acknowledge(ledger.epoch, "result", 1, [], ack_timeout_s=60.0, in_flight=[row.row for row in rows])
        assert done == 1
        await ledger.outbox.accepted([row.row for row in rows], 60.0)  # the PUBACKs come after all
        assert await ledger.outbox.expire(everything=True) == 1
        assert [row.sequence for row in await due(ledger)] == [2]


async def test_a_trace_tells_when_a_row_was_delivered_of_which_the_mes_was_quicker_than_the_broker(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 1)
        (row,) = await due(ledger)
        assert await ledger.outbox.acknowledge(ledger.epoch, "result", 1, [], ack_timeout_s=60.0, in_flight=[row.row]) == 1
        last = (await ledger.trace("0.png"))[-1]
        assert last["what"] == "delivered"
        assert last["time"] is not None


async def test_nobody_is_told_to_look_again_before_what_the_mes_misses_is_due(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, monotonic=clock) as ledger:
        await recorded(ledger, 2)
        await ledger.outbox.accepted([row.row for row in await due(ledger)], 60.0)
        clock.now += 30.0
        before = ledger.outbox.generation
        arm("ledger.uncommitted=delay:0.4")
        try:
            word = asyncio.create_task(ledger.outbox.acknowledge(ledger.epoch, "result", 2, [(1, 1)], ack_timeout_s=60.0))
            while ledger.outbox.generation == before:
                await asyncio.sleep(0.005)
            assert [row.sequence for row in await due(ledger)] == [1]
            assert await word == 1
        finally:
            arm("")


async def test_without_the_mess_word_a_row_is_sent_again_after_a_time_that_doubles(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, monotonic=clock) as ledger:
        await recorded(ledger, 1)
        waited = []
        for _ in range(6):
            (row,) = await due(ledger)
            await ledger.outbox.accepted([row.row], 60.0)
            began = clock.now
            while not await ledger.outbox.expire():
                clock.now += 10
            waited.append(clock.now - began)
        assert waited == [60, 120, 240, 480, 600, 600]
        assert (await due(ledger))[0].attempt == 6


async def test_a_restart_of_the_machine_makes_no_row_wait_for_ever(tmp_path: Path) -> None:
    """The monotonic clock begins anew at a boot."""
    clock = Clock()
    async with opened(tmp_path, monotonic=clock) as ledger:
        clock.now = 5_000_000.0
        await recorded(ledger, 1)
        await ledger.outbox.accepted([row.row for row in await due(ledger)], 60.0)
    clock.now = 10.0
    async with opened(tmp_path, monotonic=clock) as ledger:
        assert await ledger.outbox.expire() == 1


async def test_what_the_mes_misses_is_sent_again_but_not_what_was_only_just_sent(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, monotonic=clock) as ledger:
        await recorded(ledger, 4)
        rows = await due(ledger)
        await ledger.outbox.accepted([row.row for row in rows], 60.0)
        clock.now += 5
        assert await ledger.outbox.acknowledge(ledger.epoch, "result", 4, [(2, 3)], ack_timeout_s=60.0) == 2
        assert await due(ledger) == []
        clock.now += 6
        await ledger.outbox.acknowledge(ledger.epoch, "result", 4, [(2, 3)], ack_timeout_s=60.0)
        assert [row.sequence for row in await due(ledger)] == [2, 3]
        await ledger.outbox.accepted([rows[1].row, rows[2].row], 60.0)
        clock.now += 11
        await ledger.outbox.acknowledge(ledger.epoch, "result", 4, [(2, 3)], ack_timeout_s=60.0)
        assert await due(ledger) == []  # each once per ack timeout


async def test_the_figures_tell_what_waits_and_how_long(tmp_path: Path) -> None:
    wall = Clock()
    async with opened(tmp_path, wall=wall) as ledger:
        await recorded(ledger, 3)
        rows = await due(ledger)
        await ledger.outbox.delivered([rows[0].row])
        await ledger.outbox.park([rows[1].row], "refused", None)
        wall.now += 90
        stop = asyncio.Event()
        running = asyncio.create_task(ledger.run(stop))
        while ledger.outbox_figures()["parked"] == 0:
            await asyncio.sleep(0.01)
        stop.set()
        await running
        assert ledger.outbox_figures() == {"undelivered": 1, "parked": 1, "oldest_s": 90.0}
        assert ledger.figures().results == 3
        assert ledger.figures().verdicts == {"PASS": 3, "FAIL": 0, "REVIEW": 0, "ERROR": 0}
