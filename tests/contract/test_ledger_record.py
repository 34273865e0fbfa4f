"""Every landing is recorded once: what counts as the same, and what as new. On a real SQLite file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from contract.ledger_pages import BASE, STATION, HeardBoard, opened, page
from edged.ledger import Ledger
from edged.ledger.identity import identity
from edged.nouns import HealthStatus, OutboxRow, Recording, VerdictKind


async def due(ledger: Ledger) -> list[OutboxRow]:
    return await ledger.outbox.due("fresh", 1000, 0, 0)


async def test_a_verdict_is_recorded_with_its_message_and_its_outbox_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        recorded = await ledger.record([page(verdict=VerdictKind.FAIL, reason="class:particle>=0.80")])
        (row,) = await due(ledger)
        body = json.loads(row.body)
        assert recorded.outcome is Recording.RECORDED
        assert recorded.ids == (body["id"],) == (row.id,)
        assert recorded.kinds == (VerdictKind.FAIL,)
        assert (row.topic, row.kind, row.sequence) == (f"{BASE}/result/cam1/fail", "result", 1)
        assert (body["sequence"], body["epoch"]) == ("000000000001", ledger.epoch)
        assert (row.attempt, row.replayed) == (0, False)
        assert await ledger.result(row.id) == body


async def test_numbers_of_results_and_of_events_have_no_holes_of_their_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        for number in range(3):
            await asyncio.gather(
                *(ledger.record([page(b"%d_%d.png" % (number, each), b"%d" % each)]) for each in range(20)),
                ledger.announce("disk", {"n": number}),
            )
        rows = await due(ledger)
    assert [row.sequence for row in rows if row.kind == "result"] == list(range(1, 61))
    assert [row.sequence for row in rows if row.kind == "event"] == [1, 2, 3]
    assert [row.row for row in rows] == sorted(row.row for row in rows)


async def test_the_same_landing_recorded_twice_is_known_by_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        again = await ledger.record([page(verdict=VerdictKind.FAIL)])
        assert again.outcome is Recording.KNOWN
        assert (again.ids, again.kinds) == (first.ids, (VerdictKind.PASS,))
        assert len(await due(ledger)) == 1


async def test_one_landing_recorded_by_two_at_the_same_time_is_recorded_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        answers = await asyncio.gather(*(ledger.record([page()]) for _ in range(8)))
        assert sorted(answer.outcome for answer in answers) == sorted([Recording.RECORDED, *[Recording.KNOWN] * 7])
        assert len({answer.ids for answer in answers}) == 1


async def test_a_touched_file_is_the_same_landing(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        same = await ledger.record([page(mtime_ns=3_600_000_000_000)])
        assert (same.outcome, same.ids) == (Recording.SAME, first.ids)
        assert await ledger.known("cam1", [(b"a.png", 6, 3_600_000_000_000)]) == {0}
        assert (await ledger.record([page(mtime_ns=3_600_000_000_000)])).outcome is Recording.KNOWN
        assert len(await due(ledger)) == 1


async def test_the_same_content_under_the_same_name_after_it_was_gone_is_a_new_image(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.vanished("cam1", b"a.png")
        second = await ledger.record([page(mtime_ns=2_000)])
        assert second.outcome is Recording.RECORDED
        body = await ledger.result(second.ids[0])
        assert body is not None
        assert body["data"]["duplicate_of"] == first.ids[0]


async def test_a_reused_name_with_other_content_is_a_new_image(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page(content=b"one")])
        second = await ledger.record([page(content=b"two", mtime_ns=2_000)])
        third = await ledger.record([page(content=b"six", mtime_ns=2_000)])  # same size and mtime: only the content tells
        assert {first.outcome, second.outcome, third.outcome} == {Recording.RECORDED}
        assert len({first.ids, second.ids, third.ids}) == 3


async def test_a_copy_beside_the_original_is_an_image_of_its_own_that_names_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        other = await ledger.record([page(b"b.png", camera="cam2")])
        third = await ledger.record([page(b"c.png")])
        for copy in (other, third):
            body = await ledger.result(copy.ids[0])
            assert copy.outcome is Recording.RECORDED
            assert body is not None
            assert body["data"]["duplicate_of"] == first.ids[0]


async def test_a_truncated_image_that_completes_later_is_superseded(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        error = await ledger.record([page(content=b"pix", verdict=VerdictKind.ERROR, reason="truncated")])
        whole = await ledger.record([page(content=b"pixels", mtime_ns=2_000)])
        body = await ledger.result(whole.ids[0])
        assert body is not None
        assert body["data"]["supersedes"] == error.ids[0]


async def test_a_truncated_image_that_was_taken_away_is_not_superseded_by_the_next_of_its_name(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        error = await ledger.record([page(content=b"pix", verdict=VerdictKind.ERROR, reason="truncated")])
        await ledger.disposed("cam1", b"a.png", error.ids[0], "kept", None)
        await ledger.vanished("cam1", b"a.png")
        other = await ledger.record([page(content=b"pixels", mtime_ns=2_000)])
        body = await ledger.result(other.ids[0])
        assert body is not None
        assert body["data"]["supersedes"] is None


async def test_all_pages_of_a_file_are_recorded_together_and_duplicates_are_named_page_by_page(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page(number=n, pages=3) for n in range(3)])
        copy = await ledger.record([page(b"b.tif", number=n, pages=3) for n in range(3)])
        bodies = [await ledger.result(id_) for id_ in copy.ids]
        assert len(set(first.ids)) == 3
        assert [body and body["data"]["duplicate_of"] for body in bodies] == list(first.ids)


async def test_a_file_too_large_to_be_hashed_is_nobodys_duplicate(tmp_path: Path) -> None:
    def unhashed(path: bytes):
        one = page(path, verdict=VerdictKind.ERROR, reason="too-large")
        return replace(one, image=replace(one.image, sha256=""))

    async with opened(tmp_path) as ledger:
        first, other = await ledger.record([unhashed(b"a.png")]), await ledger.record([unhashed(b"b.png")])
        assert (first.outcome, other.outcome) == (Recording.RECORDED, Recording.RECORDED)
        body = await ledger.result(other.ids[0])
        assert body is not None
        assert body["data"]["duplicate_of"] is None
        assert (await ledger.record([unhashed(b"a.png")])).outcome is Recording.KNOWN


async def test_a_second_judgement_has_its_own_id_and_names_the_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        second = await ledger.record([page(judgement=1, verdict=VerdictKind.FAIL)])
        body = await ledger.result(second.ids[0])
        assert body is not None
        assert (body["data"]["judgement"], body["data"]["supersedes"]) == (1, first.ids[0])
        assert (await ledger.record([page(judgement=1)])).outcome is Recording.KNOWN
        assert (await ledger.record([page()])).ids == first.ids


async def test_names_that_are_not_unicode_and_sidecars_with_nonsense_are_recorded(tmp_path: Path) -> None:
    hostile = b"lot\xff\n'\";DROP TABLE landing;--.png"
    async with opened(tmp_path) as ledger:
        recorded = await ledger.record([page(hostile, lot="L\ud800\x00", wafer="W\n1")])
        assert recorded.outcome is Recording.RECORDED
        assert await ledger.known("cam1", [(hostile, 6, 1_000)]) == {0}
        assert (await ledger.results())[0][0]["id"] == recorded.ids[0]


async def test_what_was_recorded_is_known_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        epoch = ledger.epoch
        await ledger.record([page(b"a.png")])
        await ledger.record([page(b"b.png", b"b")])
        await ledger.vanished("cam1", b"b.png")
    async with opened(tmp_path) as ledger:
        assert await ledger.known("cam1", [(b"a.png", 6, 1_000), (b"b.png", 1, 1_000), (b"c.png", 1, 1_000)]) == {0}
        assert ledger.epoch == epoch
        assert (await ledger.record([page(b"c.png", b"c")])).outcome is Recording.RECORDED
        assert [row.sequence for row in await due(ledger)] == [1, 2, 3]


async def test_a_baseline_is_under_way_in_its_folder_until_it_has_ended_across_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        assert await ledger.first_start("cam1", "/drop", 17) is True
    async with opened(tmp_path) as ledger:
        assert await ledger.first_start("cam1", "/drop", 99) is False
        assert await ledger.baseline_since("cam1", "/drop") == 17
        assert await ledger.baseline_since("cam1", "/another") is None
        await ledger.baseline_ended("cam1")
    async with opened(tmp_path) as ledger:
        assert await ledger.baseline_since("cam1", "/drop") is None


async def test_a_baseline_is_known_and_has_no_results(tmp_path: Path) -> None:
    seen = [(b"%d.png" % number, number, number) for number in range(2500)]
    async with opened(tmp_path) as ledger:
        assert await ledger.first_start("cam1", "/drop") is True
        await ledger.baseline("cam1", seen)
        assert await ledger.known("cam1", [*seen, (b"new.png", 1, 1)]) == set(range(2500))
        assert await due(ledger) == []
    async with opened(tmp_path) as ledger:
        assert await ledger.first_start("cam1", "/drop") is False
        assert len(await ledger.known("cam1", seen)) == 2500


@pytest.mark.parametrize("mtime_ns", [10_413_792_000 * 10**9, 2**63, 2**64 + 5, -(2**63) - 1, -1])
async def test_a_file_of_any_year_is_recorded_like_any_other(tmp_path: Path, mtime_ns: int) -> None:
    """SQLite's integers end in 2262; a camera's clock and `touch` do not."""
    folder = tmp_path / "state"
    async with opened(folder) as ledger:
        first = await ledger.record([page(mtime_ns=mtime_ns)])
        expected = identity(STATION.source, "cam1", b"a.png", 6, mtime_ns, hashlib.sha256(b"pixels").hexdigest(), 0)
        assert first.ids == (str(expected),)
        assert (await ledger.record([page(mtime_ns=mtime_ns)])).outcome is Recording.KNOWN
        copy = await ledger.record([page(b"b.png", mtime_ns=mtime_ns)])
        body = await ledger.result(copy.ids[0])
        assert body is not None
        assert body["data"]["duplicate_of"] == first.ids[0]
        await ledger.baseline("cam1", [(b"old.png", 1, mtime_ns)])
        assert [row[2] for row in await ledger.pending_disposal("cam1")] == [mtime_ns, mtime_ns]
    async with opened(folder) as ledger:
        seen = [(b"a.png", 6, mtime_ns), (b"old.png", 1, mtime_ns), (b"old.png", 1, mtime_ns + 1)]
        assert await ledger.known("cam1", seen) == {0, 1}
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        await ledger.vanished("cam1", b"a.png")
        renamed = await ledger.record([page(b"c.png", mtime_ns=mtime_ns)])
        assert (renamed.outcome, renamed.ids) == (Recording.RENAMED, first.ids)


async def test_a_composer_that_fails_takes_nobody_with_it(tmp_path: Path) -> None:
    """One bad job of a group is rolled back alone, its number with it."""
    async with opened(tmp_path) as ledger:
        broken = replace(page(b"bad.png", b"bad"), timing_ms={"total": "soon"})  # type: ignore[dict-item]
        answers = await asyncio.gather(
            ledger.record([page(b"a.png", b"a")]), ledger.record([broken]), ledger.record([page(b"b.png", b"b")]), return_exceptions=True
        )
        assert isinstance(answers[1], ValueError | TypeError)
        assert [row.sequence for row in await due(ledger)] == [1, 2]
        assert await ledger.known("cam1", [(b"bad.png", 3, 1_000)]) == set()


async def test_the_file_is_private_durable_and_consistent(tmp_path: Path) -> None:
    board = HeardBoard()
    async with opened(tmp_path / "state", board) as ledger:
        await ledger.record([page()])
        assert board.status("ledger") is HealthStatus.OK
        assert board.status("disk") is HealthStatus.OK
        for name in ("ledger.db", "ledger.db-wal", "ledger.lock"):
            assert (tmp_path / "state" / name).stat().st_mode & 0o777 == 0o600
        writer = ledger._writer._connection
        assert writer is not None
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer.execute("PRAGMA foreign_keys").fetchone() == (1,)
    connection = sqlite3.connect(tmp_path / "state" / "ledger.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path / "open"):
            assert (tmp_path / "open" / "ledger.db").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
