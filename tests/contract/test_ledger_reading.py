"""What people ask of the ledger, and what it forgets."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import NOW, opened, page
from edged.ledger import Ledger
from edged.nouns import Recording, VerdictKind

DAY_S = 86_400.0


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def recorded(ledger: Ledger, count: int, first: int = 0, **facts: Any) -> None:
    for start in range(first, first + count, 200):
        numbers = range(start, min(start + 200, first + count))
        await asyncio.gather(*(ledger.record([page(b"%d.png" % number, b"%d" % number, **facts)]) for number in numbers))


async def everything_delivered(ledger: Ledger) -> None:
    await ledger.outbox.delivered([row.row for row in await ledger.outbox.due("backlog", 100_000, 0, 2**62)])


def stored(folder: Path, table: str) -> int:
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


def used_bytes(folder: Path) -> int:
    connection = sqlite3.connect(folder / "ledger.db")
    try:
        pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    finally:
        connection.close()
    return int(pages - free) * 4096


async def until(true: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to it in time"
        await asyncio.sleep(0.02)


async def test_results_are_listed_newest_first_in_pages_without_doubles(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 25)
        seen, cursor = [], None
        while True:
            rows, cursor = await ledger.results(limit=10, after=cursor)
            seen += [row["sequence"] for row in rows]
            if cursor is None:
                break
        assert seen == [f"{number:012d}" for number in range(25, 0, -1)]
        with pytest.raises(ValueError, match="no cursor"):
            await ledger.results(after="1; DROP TABLE result")


async def test_a_cursor_larger_than_any_row_is_a_place_like_any_other_in_every_list(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, 2)
        large = "9" * 30
        assert len((await ledger.results(after=large))[0]) == 2
        assert await ledger.audit.read(large, 10) == ([], None)
        assert await ledger.rejudgements.rejected(large, 10) == ([], None)
        assert await ledger.outbox.parked_rows(large, 10) == ([], None)
        for listed in (ledger.audit.read, ledger.rejudgements.rejected, ledger.outbox.parked_rows):
            with pytest.raises(ValueError, match="no cursor"):
                await listed("-1", 10)


async def test_results_are_found_by_camera_verdict_lot_wafer_and_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.record([page(b"a.png", b"a", lot="L1", wafer="W1")])
        await ledger.record([page(b"b.png", b"b", camera="cam2", lot="L2", wafer="W2")])
        await ledger.record([page(b"c.png", b"c", verdict=VerdictKind.FAIL, lot="L1", wafer="W2")])

        async def names(**asked: Any) -> list[str]:
            return [row["name"] for row in (await ledger.results(**asked))[0]]

        assert await names(camera="cam2") == ["b.png"]
        assert await names(verdict="FAIL") == ["c.png"]
        assert await names(verdict="PASS") == ["b.png", "a.png"]
        assert await names(lot="L1") == ["c.png", "a.png"]
        assert await names(lot="L1", wafer="W2") == ["c.png"]
        assert await names(since=NOW + timedelta(seconds=1)) == []
        assert await names(since=NOW) == ["c.png", "b.png", "a.png"]
        assert await ledger.counts(NOW) == {"PASS": 2, "FAIL": 1}
        assert await ledger.counts(NOW + timedelta(seconds=1)) == {}
        assert await ledger.result("no-uuid") is None
        first = (await ledger.results(camera="cam2"))[0][0]
        assert (first["lot_id"], first["wafer_id"], first["delivered"], first["decided"]) == ("L2", "W2", False, NOW)


async def test_a_trace_tells_a_files_way_by_its_bare_name_or_its_path(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page(b"lot7/a.png", verdict=VerdictKind.FAIL, reason="class:particle>=0.80")])
        told = await ledger.trace("a.png")
        assert [entry["what"] for entry in told] == ["seen", "settled", "decoded", "inferred", "judged", "recorded", "due"]
        assert (told[4]["verdict"], told[4]["reason"], told[4]["id"]) == ("FAIL", "class:particle>=0.80", first.ids[0])
        assert told[4]["timing_ms"] == {"settle": 310.0, "decode": 3.1, "infer": 6.4, "total": 716.0}
        assert told[1]["time"] == NOW - timedelta(milliseconds=716 - 310)
        assert [(entry["time"], entry["ms"]) for entry in told[2:4]] == [(None, 3.1), (None, 6.4)]
        assert told[0]["time"] == NOW
        await everything_delivered(ledger)
        await ledger.disposed("cam1", b"lot7/a.png", first.ids[0], "moved", "/drop/.done/a.png")
        told = await ledger.trace("lot7/a.png")
        assert [entry["what"] for entry in told] == ["seen", "settled", "decoded", "inferred", "judged", "recorded", "delivered", "moved"]
        assert told[-2]["attempts"] == 1, "the one that the broker took"
        assert told[-1]["to"] == "/drop/.done/a.png"
        assert await ledger.trace("lot8/a.png") == []
        assert await ledger.trace("b.png") == []


async def test_a_trace_tells_why_there_is_no_result_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.first_start("cam1", "/drop")
        await ledger.baseline("cam1", [(b"old.png", 1, 1)])
        assert "first start" in (await ledger.trace("old.png"))[0]["reason"]
        first = await ledger.record([page(b"a.png")])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        await ledger.vanished("cam1", b"a.png")
        await ledger.record([page(b"b.png")])
        assert "renamed" in {entry["what"] for entry in await ledger.trace("b.png")}
        assert (await ledger.trace("a.png"))[-1]["what"] == "renamed away"
        await ledger.record([page(b"b.png", mtime_ns=9_000)])
        assert "touched" in {entry["what"] for entry in await ledger.trace("b.png")}
        (row,) = await ledger.outbox.due("fresh", 10, 0, 0)
        await ledger.outbox.park([row.row], "the broker does not let us publish there", None)
        parked = next(entry for entry in await ledger.trace("b.png") if entry["what"] == "parked")
        assert parked["note"] == "the broker does not let us publish there"


async def test_a_name_that_is_no_unicode_is_traced_by_the_text_that_is_shown(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.record([page(b"a\xff\n.png")])
        assert len(await ledger.trace(r"a\xff\n.png")) == 7


async def test_delivered_results_are_pruned_by_age_but_the_files_stay_known(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02, retain_days=30) as ledger:
        await recorded(ledger, 300)
        await everything_delivered(ledger)
        clock.now += 31 * DAY_S
        await recorded(ledger, 1, first=1000)
        clock.now += 61  # it rests a minute when there was nothing to do
        await until(lambda: ledger._retention.pruned == 300)
        rows, _ = await ledger.results(limit=1000)
        assert [row["name"] for row in rows] == ["1000.png"]
        assert (await ledger.record([page(b"7.png", b"7")])).outcome is Recording.KNOWN
        told = await ledger.trace("7.png")
        assert told[-1]["note"] == "its result is older than the retention time"
        assert told[-1]["verdict"] == "PASS"
    async with opened(tmp_path) as ledger:
        assert await ledger.known("cam1", [(b"7.png", 1, 1_000)]) == {0}


async def test_what_is_not_delivered_is_never_pruned(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02, retain_days=30, retain_rows=1) as ledger:
        await recorded(ledger, 250)
        rows = await ledger.outbox.due("backlog", 1000, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows[:100]])
        await ledger.outbox.park([rows[100].row], "refused", None)
        clock.now += 100 * DAY_S
        await until(lambda: ledger._retention.pruned == 100)
        clock.now += 100 * DAY_S
        await asyncio.sleep(0.2)
        assert len(await ledger.outbox.due("backlog", 1000, 0, 2**62)) == 149
        assert ledger._retention.pruned == 100
        assert "parked" in {entry["what"] for entry in await ledger.trace("100.png")}


async def test_the_oldest_go_when_there_are_more_rows_than_may_be_kept(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02, retain_rows=40) as ledger:
        stop = asyncio.Event()
        running = asyncio.create_task(ledger.run(stop))
        await recorded(ledger, 100)
        await everything_delivered(ledger)
        await until(lambda: ledger.figures().results == 100)
        clock.now += 61
        await until(lambda: ledger._retention.pruned >= 60)
        stop.set()
        await running
        rows, _ = await ledger.results(limit=1000)
        # The newest stay. Counting lags behind, so some more may have gone.
        assert [int(row["sequence"]) for row in rows] == list(range(100, 100 - len(rows), -1))
        assert 1 <= len(rows) <= 40


async def test_a_ledger_that_grew_too_large_shrinks(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02, retain_bytes=1024**2) as ledger:
        await recorded(ledger, 800)
        await everything_delivered(ledger)
        clock.now += 61
        await until(lambda: used_bytes(tmp_path) < 1024**2)
        assert 100 < ledger._retention.pruned < 799
        assert (await ledger.results(limit=1))[0][0]["sequence"] == "000000000800"


async def test_an_identity_is_forgotten_once_the_file_is_gone_and_retention_has_passed(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02) as ledger:
        await recorded(ledger, 4)
        await everything_delivered(ledger)
        await ledger.vanished("cam1", b"0.png")
        clock.now += 31 * DAY_S
        await recorded(ledger, 1, first=10)
        clock.now += 61
        await until(lambda: stored(tmp_path, "landing") == 4)
        assert await ledger.trace("0.png") == []
        assert len(await ledger.trace("1.png")) > 0


async def test_a_jump_of_the_wall_clock_prunes_nothing(tmp_path: Path) -> None:
    wall = Clock()
    async with opened(tmp_path, wall=wall, tick_s=0.02) as ledger:
        await recorded(ledger, 20)
        await everything_delivered(ledger)
        wall.now += 400 * DAY_S
        await asyncio.sleep(0.2)
        assert ledger._retention.pruned == 0
    async with opened(tmp_path, wall=wall, tick_s=0.02) as ledger:  # started under the wrong clock
        await asyncio.sleep(0.2)
        assert len((await ledger.results())[0]) == 20
    wall.now -= 800 * DAY_S
    async with opened(tmp_path, wall=wall, tick_s=0.02) as ledger:
        assert len((await ledger.results())[0]) == 20


async def test_row_numbers_do_not_begin_anew_when_everything_is_pruned(tmp_path: Path) -> None:
    clock = Clock(0.0)
    async with opened(tmp_path, monotonic=clock, tick_s=0.02) as ledger:
        await recorded(ledger, 5)
        await everything_delivered(ledger)
        mark = await ledger.outbox.mark()
        clock.now += 31 * DAY_S
        await until(lambda: ledger._retention.pruned == 4)
        await recorded(ledger, 1, first=10)
        (row,) = await ledger.outbox.due("fresh", 10, 0, mark)
        assert (row.row, row.sequence) == (6, 6)


async def test_times_are_told_in_utc(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.record([page()])
        (row,), _ = await ledger.results()
        assert row["decided"] == NOW
        assert row["decided"].tzinfo is UTC
        assert isinstance(row["decided"], datetime)
