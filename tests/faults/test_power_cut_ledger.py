"""The power goes while the ledger itself is changed: its tables by a newer edged, or the whole file, because a page was damaged."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened, page
from edged.ledger import inspect
from edged.ledger.migrations import ALL, applied
from rigs.faults import Fault
from rigs.ledger_files import aged, overwrite, pages_with
from rigs.power import cut_under, disk, writers

IMAGES = 300


async def filled(state: Path) -> dict[str, int]:
    """A ledger, half delivered; id -> its delivery's state."""
    async with opened(state) as ledger:
        await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"content %d" % n)]) for n in range(IMAGES)))
        rows = await ledger.outbox.due("backlog", 10_000, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows[: IMAGES // 2]])
    return states(state / "ledger.db")


def states(file: Path) -> dict[str, int]:
    connection = sqlite3.connect(file)
    try:
        rows = connection.execute("SELECT m.id, o.state FROM message m JOIN outbox o USING (message) WHERE m.kind = 'result'").fetchall()
    finally:
        connection.close()
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def schema_of(file: Path) -> int:
    connection = sqlite3.connect(file)
    try:
        return len(applied(connection))
    finally:
        connection.close()


async def starts(state: Path) -> float:
    began = time.monotonic()
    async with opened(state):
        return time.monotonic() - began


def case(name: str, count: int) -> Any:
    return pytest.param(count, marks=[pytest.mark.fault(name, matrix=(5,)), *([pytest.mark.long] if count > 10 else [])])


@pytest.mark.parametrize("count", [case("power cut under a migration", 3), case("power cut under a migration", 30)])
def test_a_migration_resumes_after_a_power_cut(tmp_path: Path, fault: Fault, count: int) -> None:
    (tmp_path / "template").mkdir()
    before = asyncio.run(filled(tmp_path / "template"))
    aged(tmp_path / "template" / "ledger.db")
    assert schema_of(tmp_path / "template" / "ledger.db") == 1
    rng, lost, slowest_s, at = random.Random(5), 0, 0.0, Counter[int]()
    with disk(tmp_path, "ext4") as its, writers(tmp_path / "writers") as made:
        for _ in range(count):
            state = its.folder / "state"
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            shutil.copy(tmp_path / "template" / "ledger.db", state / "ledger.db")
            its.sync()
            cut_under(made.start("reopen", state), [its], rng.uniform(0, 0.06))
            at[schema_of(state / "ledger.db")] += 1
            slowest_s = max(slowest_s, asyncio.run(starts(state)))
            assert schema_of(state / "ledger.db") == len(ALL)
            assert not (state / "set-aside").exists()
            assert inspect(state).problems == ()
            now = states(state / "ledger.db")
            lost += len(before.keys() - now.keys()) + sum(now[id_] != before[id_] for id_ in before.keys() & now.keys())
    told = ", ".join(f"{times} with {number} of {len(ALL)}" for number, times in sorted(at.items()))
    fault.row(f"{count} cuts: {told} migrations done", images=IMAGES * count, lost=lost, doubled=0, recovered_s=round(slowest_s, 2))


@pytest.mark.parametrize("count", [case("power cut under a rebuild", 4), case("power cut under a rebuild", 30)])
def test_a_rebuild_ends_after_a_power_cut(tmp_path: Path, fault: Fault, count: int) -> None:
    (tmp_path / "template").mkdir()
    before = asyncio.run(filled(tmp_path / "template"))
    damaged = tmp_path / "template" / "ledger.db"
    overwrite(damaged, pages_with(damaged, b"specversion")[20:24], 1)
    rng, unsaid, slowest_s, at = random.Random(6), 0, 0.0, Counter[str]()
    with disk(tmp_path, "ext4") as its, writers(tmp_path / "writers") as made:
        for _ in range(count):
            state = its.folder / "state"
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            for name in ("ledger.db", "ledger.mark"):
                shutil.copy(tmp_path / "template" / name, state / name)
            (state / "ledger.suspect").touch()
            its.sync()
            cut_under(made.start("reopen", state), [its], rng.uniform(0, 0.45))
            at["+".join(sorted(path.name for path in state.glob("ledger*.db"))) or "none"] += 1
            slowest_s = max(slowest_s, asyncio.run(starts(state)))
            unsaid += missing_and_not_said(state, before, damaged.read_bytes())
    told = ", ".join(f"{times} at {names}" for names, times in sorted(at.items()))
    fault.row(
        f"{count} cuts ({told})",
        images=IMAGES * count,
        lost=unsaid,
        doubled=0,
        recovered_s=round(slowest_s, 2),
        note="lost counts what the event did not say",
    )


def missing_and_not_said(state: Path, before: dict[str, int], damaged: bytes) -> int:
    """Whatever the moment was: one file set aside, as it was; one event; what is missing is what it says."""
    asides = [folder for folder in (state / "set-aside").iterdir() if (folder / "ledger.db").exists()]
    assert len(asides) == 1
    assert (asides[0] / "ledger.db").read_bytes() == damaged
    assert sorted(path.name for path in state.glob("ledger*")) == ["ledger.db", "ledger.lock", "ledger.mark"]
    assert inspect(state).problems == ()
    connection = sqlite3.connect(state / "ledger.db")
    ((body,),) = connection.execute("SELECT body FROM message WHERE kind = 'event'").fetchall()
    connection.close()
    said = json.loads(body)["data"]
    missing = before.keys() - states(state / "ledger.db").keys()
    assert missing
    return abs(len(missing) - said["lost_messages"])
