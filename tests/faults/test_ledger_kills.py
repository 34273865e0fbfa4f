"""The ledger's process killed at its own steps and at its n-th sync: what it said is recorded is there, once, and no number is missing."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened
from edged.failpoints import POINTS
from edged.nouns import OutboxRow
from rigs.faults import Fault
from rigs.ledger_work import lost_or_doubled, work

STEPS = ("ledger.migrating", "ledger.migrated", "ledger.uncommitted", "ledger.committed", "ledger.checkpoint", "ledger.checkpointed")
PRUNING = ("retention.piece", "retention.pruned")
REBUILDING = ("rebuild.copied", "rebuild.made", "rebuild.aside", "rebuild.placed")


def whole(folder: Path) -> None:
    """The file reads, and its numbers have no hole but what was pruned."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for kind, last in connection.execute("SELECT kind, last FROM sequence").fetchall():
            (count,) = connection.execute("SELECT count(*) FROM message WHERE kind = ?", (kind,)).fetchone()
            (absent,) = connection.execute("SELECT coalesce(sum(last - first + 1), 0) FROM absent WHERE kind = ?", (kind,)).fetchone()
            assert count + absent == last, f"{kind}: {count} there, {absent} pruned, numbers up to {last}"


def killed_at(folder: Path, points: list[str]) -> tuple[dict[int, str], int, int]:
    """Kills it at each point in turn, on one ledger: (what was said, lost, doubled)."""
    said: dict[int, str] = {}
    for turn, point in enumerate(points):
        if point.startswith("ledger.migrat"):
            for file in folder.glob("ledger.*"):  # a new ledger is made: nothing of the old one counts
                file.unlink()
            said.clear()
        done = work(folder, 1_000_000 * turn, points=point)
        assert done.status == -9, f"{point} was not reached: {done.errors}"
        said |= done.said
    lost, doubled = asyncio.run(lost_or_doubled(folder, said))
    whole(folder)
    return said, lost, doubled


@pytest.mark.fault("kill -9 at the ledger's steps", matrix=(2, 5))
def test_killed_at_each_of_its_own_steps_the_ledger_holds_what_it_said(tmp_path: Path, fault: Fault) -> None:
    points = [f"{step}=kill@{hit}" for step in STEPS for hit in ((1, 4) if step == "ledger.migrating" else (1,))]
    said, lost, doubled = killed_at(tmp_path, [*points, *(f"{step}=kill" for step in PRUNING)])
    fault.row(how="at migrations, commits, checkpoints, pruning", images=len(said), lost=lost, doubled=doubled)


@pytest.mark.long
@pytest.mark.fault("kill -9 at the ledger's steps, each at its 1st to 5th time", matrix=(2, 5))
def test_killed_at_each_of_its_own_steps_again_and_again(tmp_path: Path, fault: Fault) -> None:
    steps = [step for step in (*STEPS, *PRUNING) if step != "ledger.migrated"]
    said, lost, doubled = killed_at(tmp_path, [f"{step}=kill@{hit}" for step in steps for hit in range(1, 6)])
    fault.row(how="at migrations, commits, checkpoints, pruning", images=len(said), lost=lost, doubled=doubled)


def killed_at_sync(folder: Path, numbers: list[int]) -> tuple[int, int, int]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    total: dict[int, str] = {}
    for turn, number in enumerate(numbers):
        inject = ["-e", "trace=fdatasync", "-e", f"inject=fdatasync:signal=SIGKILL:when={number}"]
        done = work(folder, 1_000_000 * turn, prefix=["strace", "-f", "-o", "/dev/null", *inject])
        if done.status == 1 and "PTRACE" in done.errors:
            pytest.skip(f"strace may not trace here: {done.errors.splitlines()[-1]}")
        assert done.status != 0, f"sync {number} was not reached: {done.errors}"
        total |= done.said
    lost, doubled = asyncio.run(lost_or_doubled(folder, total))
    whole(folder)
    return len(total), lost, doubled


@pytest.mark.fault("kill -9 at sync n", matrix=(2,))
def test_killed_at_its_nth_sync_the_ledger_holds_what_it_said(tmp_path: Path, fault: Fault) -> None:
    images, lost, doubled = killed_at_sync(tmp_path, [1, 2, 3, 5, 20])
    fault.row(how="fdatasync n = 1, 2, 3, 5, 20, by strace", images=images, lost=lost, doubled=doubled)


@pytest.mark.long
@pytest.mark.fault("kill -9 at sync n, n = 1 to 60", matrix=(2,))
def test_killed_at_each_of_its_first_sixty_syncs(tmp_path: Path, fault: Fault) -> None:
    images, lost, doubled = killed_at_sync(tmp_path, list(range(1, 61)))
    fault.row(how="fdatasync n = 1 to 60, by strace", images=images, lost=lost, doubled=doubled)


@pytest.mark.fault("kill -9 while a damaged ledger is rebuilt", matrix=(48,))
def test_killed_at_each_step_of_a_rebuild_it_is_rebuilt_once_and_says_what_is_lost(tmp_path: Path, fault: Fault) -> None:
    assert {point for point in POINTS if point.startswith("rebuild.")} == set(REBUILDING)
    images = doubled = 0
    for step in REBUILDING:
        folder = tmp_path / step
        assert work(folder, 0, points="ledger.committed=kill@60", deliver=False).status == -9
        with closing(sqlite3.connect(folder / "ledger.db")) as connection:  # closing writes the log back: the damage is in the file
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            there = {id_ for (id_,) in connection.execute("SELECT id FROM message WHERE kind = 'result'")}
        damage(folder / "ledger.db")
        done = work(folder, 1_000_000, points=f"{step}=kill", deliver=False)
        assert done.status == -9, f"{step} was not reached: {done.errors}"
        events, rows = asyncio.run(_after(folder))
        assert len(list((folder / "set-aside").iterdir())) == 1
        (event,) = events
        missing = there - {row.id for row in rows}
        told = sum(last - first + 1 for first, last in event["lost"].get("result", {"ranges": []})["ranges"])
        assert told == len(missing) > 0, f"the event tells of {told} lost, {len(missing)} are"
        images += len(there)
        doubled += len(rows) - len({row.id for row in rows})
    fault.row(how="at each of its four steps", images=images, lost=0, doubled=doubled, note="what the damage took is told exactly")


def damage(file: Path) -> None:
    """Half the leaves that hold messages do not read."""
    content = file.read_bytes()
    leaves = [at for at in range(4096, len(content), 4096) if content[at] == 0x0D and b"specversion" in content[at : at + 4096]]
    assert len(leaves) > 5
    with file.open("r+b") as opened_file:
        for at in leaves[::2]:
            opened_file.seek(at)
            opened_file.write(random.Random(at).randbytes(4096))


async def _after(folder: Path) -> tuple[list[dict[str, Any]], list[OutboxRow]]:
    """`data` of the events that say that it was set aside, and every row of the outbox."""
    async with opened(folder) as ledger:
        rows = await ledger.outbox.due("backlog", 1_000_000, 0, 2**62)
    return [json.loads(row.body)["data"] for row in rows if row.topic.endswith("event/ledger-set-aside")], rows
