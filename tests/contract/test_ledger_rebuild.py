"""A damaged ledger is set aside whole; what reads is carried over, and what is lost is said."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import structlog

from contract.ledger_pages import opened, page
from edged.errors import LedgerCorrupt
from edged.ledger import Ledger, inspect
from edged.ledger.rebuild import suspect
from edged.nouns import OutboxRow, Recording

IMAGES = 400
PAGE = 4096


async def filled(folder: Path) -> list[OutboxRow]:
    """A ledger of many pages, half delivered; returns all its rows."""
    async with opened(folder) as ledger:
        await asyncio.gather(*(record(ledger, number) for number in range(IMAGES)))
        await ledger.announce("disk", {"n": 1})
        rows = await every_row(ledger)
        await ledger.outbox.delivered([row.row for row in rows[: IMAGES // 2]])
    return rows


async def record(ledger: Ledger, number: int) -> Any:
    return await ledger.record([page(b"%d.png" % number, b"content %d" % number)])


async def every_row(ledger: Ledger) -> list[OutboxRow]:
    return await ledger.outbox.due("backlog", 100_000, 0, 2**62)


def damaged(file: Path, pages: range) -> bytes:
    content = bytearray(file.read_bytes())
    start = (pages.start - 1) * PAGE
    content[start : start + len(pages) * PAGE] = random.Random(2).randbytes(len(pages) * PAGE)
    file.write_bytes(content)
    return bytes(content)


def pages_of(file: Path, table: str) -> list[int]:
    """The leaf pages of a table, as SQLite numbers them: by a look for a text that only they hold."""
    content = file.read_bytes()
    return [
        n + 1 for n in range(len(content) // PAGE) if content[n * PAGE] == 0x0D and table.encode() in content[n * PAGE : (n + 1) * PAGE]
    ]


async def told(ledger: Ledger) -> dict[str, Any]:
    (event,) = [row for row in await every_row(ledger) if row.topic.endswith("event/ledger-set-aside")]
    assert event.epoch == ledger.epoch
    data: dict[str, Any] = json.loads(event.body)["data"]
    return data


async def test_damaged_bodies_cost_exactly_the_messages_that_are_named(tmp_path: Path) -> None:
    before = {row.sequence: row for row in await filled(tmp_path) if row.kind == "result"}
    file = tmp_path / "ledger.db"
    victims = pages_of(file, "specversion")[20:23]
    content = damaged(file, range(victims[0], victims[0] + 1))
    with structlog.testing.capture_logs() as logs:
        async with opened(tmp_path) as ledger:
            data = await told(ledger)
            connection = sqlite3.connect(tmp_path / "ledger.db")
            rows = {
                seq: (epoch, bytes(body))
                for epoch, seq, body in connection.execute("SELECT epoch, sequence, body FROM message WHERE kind = 'result'")
            }
            connection.close()
            epoch = next(iter(before.values())).epoch
            lost = {n for first, last in data["lost"]["result"]["ranges"] for n in range(first, last + 1)}
            assert 0 < len(lost) < 20
            assert data["lost"]["result"]["epoch"] == epoch != ledger.epoch
            assert lost == set(before) - set(rows)
            assert all(rows[number] == (epoch, before[number].body) for number in rows)
            # The files of the lost ones are judged again, under the id that they had; the others are known.
            for number in range(IMAGES):
                again = await record(ledger, number)
                ours = next(row for row in before.values() if row.id == again.ids[0])
                assert again.outcome is (Recording.RECORDED if ours.sequence in lost else Recording.KNOWN)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["ledger.set_aside"]
    (aside,) = (tmp_path / "set-aside").iterdir()
    assert (aside / "ledger.db").read_bytes() == content
    async with opened(tmp_path) as ledger:  # it is well now
        assert len(list((tmp_path / "set-aside").iterdir())) == 1


@pytest.mark.parametrize("flipped", ["how = 'judgmd'", "how = 'baseline'", "pruned = 1", "checksum = checksum + 1"])
async def test_a_damaged_landing_never_keeps_its_image_from_being_judged_again(tmp_path: Path, flipped: str) -> None:
    ids = {number: row.id for number, row in enumerate(sorted(await filled(tmp_path), key=lambda row: row.row)[:3])}
    connection = sqlite3.connect(tmp_path / "ledger.db")
    with connection:
        connection.execute(f"UPDATE landing SET {flipped} WHERE landing IN (2, 3)")
        connection.execute("UPDATE message SET body = X'00' WHERE message IN (1, 2)")
    connection.close()
    async with opened(tmp_path) as ledger:
        outcomes = {(await record(ledger, number)).outcome for number in (0, 1)}
        assert outcomes == {Recording.RECORDED}
        known = await record(ledger, 2)  # its verdict is there
        assert known.ids[0] == ids[2]
        assert known.outcome in (Recording.KNOWN, Recording.SAME)
    assert inspect(tmp_path).problems == ()


async def test_a_change_of_a_damaged_landing_does_not_hide_the_damage(tmp_path: Path) -> None:
    rows = await filled(tmp_path)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    with connection:
        connection.execute("UPDATE landing SET moved_to = CAST(X'ff' AS TEXT) WHERE landing = 2")
    connection.close()
    async with opened(tmp_path) as ledger:
        for number in (0, 1):
            await ledger.disposed("cam1", b"%d.png" % number, rows[number].id, "deleted", None)
    assert [problem for problem in inspect(tmp_path).problems if "landing" in problem] == [
        "1 landing is not what was written (its checksum differs) (row 2)."
    ]


async def test_what_was_not_delivered_is_delivered_from_the_new_file(tmp_path: Path) -> None:
    before = await filled(tmp_path)
    damaged(tmp_path / "ledger.db", range(*[pages_of(tmp_path / "ledger.db", "specversion")[5] + n for n in (0, 1)]))
    async with opened(tmp_path) as ledger:
        there = {(row.epoch, row.kind, row.sequence) for row in await every_row(ledger)}
        owed = {(row.epoch, row.kind, row.sequence) for row in before[IMAGES // 2 :]}
        data = await told(ledger)
        lost = {n for first, last in data["lost"].get("result", {"ranges": []})["ranges"] for n in range(first, last + 1)}
        assert {row for row in owed if not (row[1] == "result" and row[2] in lost)} <= there


@pytest.mark.parametrize("damage", ["first page", "text", "empty rest", "everywhere"])
async def test_no_damage_keeps_the_daemon_from_starting(tmp_path: Path, damage: str) -> None:
    await filled(tmp_path)
    file = tmp_path / "ledger.db"
    whole = file.read_bytes()
    if damage == "first page":
        damaged(file, range(1, 2))
    elif damage == "text":
        file.write_bytes(b"this is no database\n" * 500)
    elif damage == "empty rest":
        file.write_bytes(whole[: 3 * PAGE] + bytes(len(whole) - 3 * PAGE))
    else:
        rng = random.Random(4)
        for number in rng.sample(range(2, len(whole) // PAGE), 40):
            damaged(file, range(number, number + 1))
    content = file.read_bytes()
    async with opened(tmp_path) as ledger:
        data = await told(ledger)
        assert data["lost"]
        answers = await asyncio.gather(*(record(ledger, number) for number in range(IMAGES)))
        assert len({answer.ids for answer in answers}) == IMAGES
        assert (await ledger.record([page(b"new.png", b"new")])).outcome is Recording.RECORDED
    (aside,) = (tmp_path / "set-aside").iterdir()
    assert (aside / "ledger.db").read_bytes() == content
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_damage_found_while_running_is_told_and_the_next_start_rebuilds(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with opened(tmp_path) as ledger:
        # Under our feet: what the daemon has not read yet is overwritten.
        damaged(tmp_path / "ledger.db", range(2, (tmp_path / "ledger.db").stat().st_size // PAGE))
        ledger._writer._connection.execute("PRAGMA shrink_memory")  # type: ignore[union-attr]
        answers = await asyncio.gather(
            *(ledger.record([page(b"n%d.png" % number, b"n%d" % number)]) for number in range(50)), return_exceptions=True
        )
        assert any(isinstance(answer, LedgerCorrupt) for answer in answers)
        assert suspect(tmp_path / "ledger.db").exists()
    async with opened(tmp_path) as ledger:
        await told(ledger)
        assert not suspect(tmp_path / "ledger.db").exists()


async def test_a_crash_between_the_two_moves_of_a_rebuild_is_ended_by_the_next_start(tmp_path: Path) -> None:
    rows = await filled(tmp_path)
    (tmp_path / "ledger.db").rename(tmp_path / "ledger.rebuilt.db")
    async with opened(tmp_path) as ledger:
        assert ledger.epoch == rows[0].epoch
        assert (await record(ledger, 0)).outcome is Recording.KNOWN


async def test_a_crash_before_the_moves_begins_the_rebuild_anew(tmp_path: Path) -> None:
    rows = await filled(tmp_path)
    (tmp_path / "ledger.rebuilt.db").write_bytes(b"half a file")
    suspect(tmp_path / "ledger.db").touch()
    async with opened(tmp_path) as ledger:
        data = await told(ledger)
        assert data["lost"] == {}
        assert data["salvaged"]["message"] == len(rows)
        assert (await record(ledger, 0)).outcome is Recording.KNOWN
