"""Judged files on their way out of the folder: moved, deleted, kept, renamed or gone, and what the ledger makes of it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page, touched
from edged.nouns import Recording, VerdictKind


async def test_a_kept_file_that_is_renamed_is_the_same_landing_once_its_old_name_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        await ledger.vanished("cam1", b"a.png")
        renamed = await ledger.record([page(b"b.png")])
        assert (renamed.outcome, renamed.ids) == (Recording.RENAMED, first.ids)
        copy = await ledger.record([page(b"c.png")])
        assert copy.outcome is Recording.RECORDED  # b.png is still there: a copy is an image of its own
        assert copy.ids != first.ids


async def test_a_file_that_we_moved_and_that_comes_under_another_name_is_new(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "moved", "/drop/.done/a.png")
        assert (await ledger.record([page(b"b.png")])).outcome is Recording.RECORDED


@pytest.mark.parametrize("told", ["vanished", "gone", "both", "neither"])
async def test_content_of_a_file_that_we_may_have_deleted_ourselves_is_judged_under_another_name(tmp_path: Path, told: str) -> None:
    """Our own unlink, then a crash before the ledger was told: nobody renamed that file."""
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        if told in ("vanished", "both"):
            await ledger.vanished("cam1", b"a.png")
            assert await ledger.known("cam1", [(b"a.png", 6, 1_000)]) == set()
        if told in ("gone", "both"):
            await ledger.disposed("cam1", b"a.png", first.ids[0], "gone", None)
        other = await ledger.record([page(b"b.png")])
        assert other.outcome is Recording.RECORDED
        body = await ledger.result(other.ids[0])
        assert body is not None
        assert body["data"]["duplicate_of"] == first.ids[0]


async def test_what_is_pending_stays_pending_when_a_scan_no_longer_sees_the_file(tmp_path: Path) -> None:
    """It may lie aside under our name: only intake's disposal can tell."""
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page(verdict=VerdictKind.ERROR, reason="corrupt")])
        await ledger.vanished("cam1", b"a.png")
        assert await ledger.known("cam1", [(b"a.png", 6, 1_000)]) == set()
        assert "gone" in {entry["what"] for entry in await ledger.trace("a.png")}
    sha256 = hashlib.sha256(b"pixels").hexdigest()
    async with opened(tmp_path) as ledger:
        assert await ledger.pending_disposal("cam1") == [(b"a.png", 6, 1_000, sha256, first.ids[0], "ERROR", "corrupt")]
        await ledger.disposed("cam1", b"a.png", first.ids[0], "moved", "/drop/.done/a.png")
        assert await ledger.pending_disposal("cam1") == []
        assert "moved" in {entry["what"] for entry in await ledger.trace("a.png")}


async def test_a_kept_file_is_pending_no_more_and_still_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        assert await ledger.pending_disposal("cam1") == []
    async with opened(tmp_path) as ledger:
        assert await ledger.pending_disposal("cam1") == []
        assert await ledger.known("cam1", [(b"a.png", 6, 1_000)]) == {0}
        copy = await ledger.record([page(b"b.png")])
        assert copy.outcome is Recording.RECORDED


async def test_a_file_renamed_while_its_disposal_was_told_as_kept_is_renamed(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.vanished("cam1", b"a.png")
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        assert (await ledger.record([page(b"b.png")])).outcome is Recording.RENAMED


async def test_thousands_that_are_pending_are_told_in_rounds_of_256_oldest_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await asyncio.gather(*(ledger.record([page(b"%d.png" % number, b"%d" % number)]) for number in range(600)))
        told: list[bytes] = []
        while pending := await ledger.pending_disposal("cam1"):
            assert len(pending) == min(256, 600 - len(told))
            told += [row[0] for row in pending]
            await asyncio.gather(*(ledger.disposed("cam1", row[0], row[4], "kept", None) for row in pending))
        assert told == [b"%d.png" % number for number in range(600)]


async def test_a_recorded_file_dropped_again_is_known_and_disposed_of_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        assert [row[4] for row in await ledger.pending_disposal("cam1")] == [first.ids[0]]
        await ledger.disposed("cam1", b"a.png", first.ids[0], "deleted", None)
        assert await ledger.pending_disposal("cam1") == []
        assert await ledger.known("cam1", [(b"a.png", 6, 1_000)]) == set()  # so that intake sends it once more
        assert (await ledger.record([page()])).outcome is Recording.KNOWN
        assert [row[0] for row in await ledger.pending_disposal("cam1")] == [b"a.png"]


async def test_an_alias_of_a_touched_file_is_disposed_of_by_its_own_mtime(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
        await ledger.record([touched(page(), mtime_ns=5_000)])
        pending = await ledger.pending_disposal("cam1")
        assert [(row[2], row[4]) for row in pending] == [(1_000, first.ids[0]), (5_000, first.ids[0])]
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        assert await ledger.pending_disposal("cam1") == []
        assert await ledger.known("cam1", [(b"a.png", 6, 5_000)]) == {0}


async def test_ten_thousand_files_may_vanish_at_once_and_what_is_recorded_next_sees_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.baseline("cam1", [(b"%d.png" % number, number, 1) for number in range(10_000)])
        first = await ledger.record([page(b"a.png")])
        await ledger.disposed("cam1", b"a.png", first.ids[0], "kept", None)
        for number in range(10_000):
            await ledger.vanished("cam1", b"%d.png" % number)
        await ledger.vanished("cam1", b"a.png")
        renamed = await ledger.record([page(b"b.png")])
        assert (renamed.outcome, renamed.ids) == (Recording.RENAMED, first.ids)
        seen = [*((b"%d.png" % number, number, 1) for number in range(10_000)), (b"a.png", 6, 1_000), (b"b.png", 6, 1_000)]
        assert await ledger.known("cam1", seen) == {10_001}
