"""Which judged images a sidecar that comes late belongs to: while it may come, across restarts, once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page, touched
from edged.errors import Conflict
from edged.ledger.rejudgement import LATE
from edged.nouns import Again, Change, VerdictKind


def lone(path: bytes, content: bytes = b"pixels", late_s: float = 3600.0, **more: object):
    """Of an image that may still get a sidecar."""
    return page(path, content, lot=None, wafer=None, late_s=late_s, **more)  # type: ignore[arg-type]


async def test_an_image_waits_for_its_sidecar_by_its_stem_across_a_restart_and_only_while_it_may_come(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([lone(b"sub/a.png")])
        await ledger.record([lone(b"b.png", b"more", late_s=0.0)])
        assert await ledger.awaiting("cam1", [b"sub/a", b"b", b"a", b"c"]) == [(b"sub/a.png", first.ids[0])]
        assert await ledger.awaiting("cam2", [b"sub/a"]) == []
    async with opened(tmp_path) as ledger:
        assert await ledger.awaiting("cam1", [b"sub/a"]) == [(b"sub/a.png", first.ids[0])]
    ahead = [0.0]
    async with opened(tmp_path, monotonic=lambda: time.monotonic() + ahead[0], tick_s=0.05) as ledger:
        ahead[0] = 3700.0
        assert await ledger.awaiting("cam1", [b"sub/a"]) == []


async def test_a_renamed_image_waits_under_its_new_name_and_a_name_used_again_for_the_newest(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([lone(b"a.png")])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        await ledger.vanished("cam1", b"a.png")
        await ledger.record([touched(lone(b"a.png"), path=b"z.png")])
        assert await ledger.awaiting("cam1", [b"a", b"z"]) == [(b"z.png", first.ids[0])]
        old = await ledger.record([lone(b"b.png", b"one")])
        new = await ledger.record([lone(b"b.png", b"two", mtime_ns=2000)])
        assert old.ids != new.ids
        assert await ledger.awaiting("cam1", [b"b"]) == [(b"b.png", new.ids[0])]


async def test_what_is_decided_once_more_is_recorded_announced_and_awaited_no_more_in_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        one = lone(b"a.png", verdict=VerdictKind.REVIEW, reason="identity-incomplete")
        first = await ledger.record([one])
        judged = await ledger.rejudgements.judged(first.ids[0])
        assert judged is not None

        def failing(_row: object) -> list[object]:
            raise ValueError("as a bug would")

        with pytest.raises(ValueError, match="as a bug"):
            await ledger.rejudgements.ask(judged, LATE, "edged", decided=failing)  # type: ignore[arg-type]
        assert await ledger.awaiting("cam1", [b"a"]) == [(b"a.png", first.ids[0])], "nothing of it was written"

        known = page(b"a.png", lot="L7", wafer="W7", verdict=VerdictKind.PASS)
        row = await ledger.rejudgements.ask(judged, LATE, "edged", decided=lambda row: [replace(known, judgement=row.judgement)])
        assert await ledger.awaiting("cam1", [b"a"]) == []
        assert await ledger.rejudgements.open() == []
        said = await ledger.result(row.id)
        assert said is not None
        assert (said["data"]["judgement"], said["data"]["supersedes"]) == (1, first.ids[0])
        due = await ledger.outbox.due("backlog", 10, 0, 2**62)
        assert [message.topic.rpartition("/v1/")[2] for message in due] == ["result/cam1/review", "result/cam1/pass", "event/identity-late"]


async def test_what_hangs_on_a_landing_is_pruned_with_it_but_never_before_it_is_judged_again(tmp_path: Path) -> None:
    ahead = [0.0]
    async with opened(tmp_path, monotonic=lambda: time.monotonic() + ahead[0], tick_s=0.02) as ledger:
        asked = [await ledger.record([lone(name, name)]) for name in (b"a.png", b"b.png")]
        await ledger.announce("vanished", {"camera": "cam1", "file": "c.png", "cause": "as a test wants"})
        for recorded in asked:
            judged = await ledger.rejudgements.judged(recorded.ids[0])
            assert judged is not None
            row = await ledger.rejudgements.ask(judged, "asked", "a.meier")
        await ledger.rejudgements.give_up(row, "image-gone", "it was gone")
        for name in (b"a.png", b"b.png"):
            await ledger.vanished("cam1", name)
        await ledger.outbox.delivered([row.row for row in await ledger.outbox.due("backlog", 100, 0, 2**62)])
        ahead[0] = 40 * 86_400.0
        await ledger.record([page(b"new.png", b"new")])
        ahead[0] += 61.0

        def left(table: str) -> int:
            with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
                return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

        counts: list[int] = []
        for _ in range(200):
            counts = [left(table) for table in ("landing", "rejudgement", "about", "awaiting")]
            if counts == [2, 1, 0, 0]:
                break
            await asyncio.sleep(0.05)
        assert counts == [2, 1, 0, 0], "a.png is still to be judged again"
        (open_,) = await ledger.rejudgements.open()
        assert (open_.judged.name, open_.judged.bodies) == ("a.png", ())
        again = page(b"a.png", b"a.png", judgement=1, lot=None, wafer=None)
        told = Again(open_.judged.row, 1, open_.judged.sha256, "/drop", b"a.png", 1000, 7)
        recorded = await ledger.record([replace(again, landing=replace(again.landing, again=told))])
        assert recorded.ids == (open_.id,)
        assert await ledger.rejudgements.open() == []


async def test_a_rebuilt_ledger_still_has_to_judge_again_awaits_the_same_sidecars_and_tells_who_changed_what(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([lone(b"a.png")])
        other = await ledger.record([page(b"b.png", b"other")])
        await ledger.announce("vanished", {"camera": "cam1", "file": "c.png", "cause": "it was gone before it was judged"})
        judged = await ledger.rejudgements.judged(other.ids[0])
        assert judged is not None
        row = await ledger.rejudgements.ask(
            judged, "asked", "a.meier", change=lambda row: Change("a.meier", "operator", "results.rejudge", row.id)
        )
    (tmp_path / "ledger.suspect").touch()
    async with opened(tmp_path) as ledger:
        (resumed,) = await ledger.rejudgements.open()
        assert (resumed.id, resumed.judged.name) == (row.id, "b.png")
        assert await ledger.awaiting("cam1", [b"a"]) == [(b"a.png", first.ids[0])]
        assert [change["target"] for change in (await ledger.audit.read(None, 10))[0]] == [row.id]
        assert [entry["reason"] for entry in await ledger.trace("c.png")] == ["it was gone before it was judged"]
        assert [entry["state"] for entry in await ledger.trace("b.png") if entry["what"] == "rejudge"] == ["open"]


async def test_one_judgement_is_open_for_each_landing_and_its_number_is_never_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        judged = await ledger.rejudgements.judged(first.ids[0])
        assert judged is not None
        row = await ledger.rejudgements.ask(judged, "asked", "a.meier")
        with pytest.raises(Conflict) as refused:
            await ledger.rejudgements.ask(judged, "asked", "b.huber")
        assert refused.value.kind == "rejudgement-open"
    async with opened(tmp_path) as ledger:
        (resumed,) = await ledger.rejudgements.open()
        assert (resumed.number, resumed.judgement, resumed.id) == (row.number, 1, row.id)
        await ledger.rejudgements.give_up(resumed, "image-gone", "it was gone")
        again = await ledger.rejudgements.ask(resumed.judged, "asked", "a.meier")
        assert again.judgement == 2
        await asyncio.sleep(0)
        (event,) = [m for m in await ledger.outbox.due("backlog", 10, 0, 2**62) if m.topic.endswith("/event/vanished")]
        assert b"it was gone" in event.body


async def test_a_name_used_again_right_after_its_time_was_over_still_waits_for_its_sidecar(tmp_path: Path) -> None:
    ahead = [0.0]
    async with opened(tmp_path, monotonic=lambda: time.monotonic() + ahead[0], tick_s=0.05) as ledger:
        await ledger.record([lone(b"a.png", b"one", late_s=60.0)])
        ahead[0] = 100.0
        deadline = time.monotonic() + 20.0
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
            while file.execute("SELECT 1 FROM awaiting").fetchone() and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            assert file.execute("SELECT count(*) FROM awaiting").fetchone() == (0,)
        second = await ledger.record([lone(b"a.png", b"two", mtime_ns=2000)])
        assert await ledger.awaiting("cam1", [b"a"]) == [(b"a.png", second.ids[0])]
