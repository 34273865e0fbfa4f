"""The power goes while the ledger is written: what it said is recorded is there when the power is back. Ledger and disk are real."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened
from rigs.faults import Fault
from rigs.power import cut_under, disk, writers

AFRESH = 5
"""So many cycles go on with the ledger that the last cut left."""


CONTROL = 40
SPEED = "8 streams of verdicts"


@dataclass
class Found:
    """Over all cycles: what was acknowledged, what of it is not there or not delivered, ids that stand twice, the slowest start."""

    images: int = 0
    lost: int = 0
    doubled: int = 0
    slowest_s: float = 0.0
    losing: int = 0
    pruned: int = 0


def words(said: Sequence[str], word: str) -> set[str]:
    return {line.split()[1] for line in said if line.startswith(f"{word} ")}


async def look(state: Path, said: Sequence[str], found: Found, *, pruned: bool = False) -> None:
    """As the daemon starts: nothing may be set aside, and nothing acknowledged may be missing. `pruned`: but what was delivered."""
    recorded, delivered = words(said, "recorded"), words(said, "delivered")
    began = time.monotonic()
    async with opened(state):
        found.slowest_s = max(found.slowest_s, time.monotonic() - began)
    assert not (state / "set-aside").exists(), "a power cut alone damages nothing"
    connection = sqlite3.connect(state / "ledger.db")
    try:
        rows = connection.execute(
            "SELECT m.id, o.state, m.sequence FROM message m JOIN outbox o USING (message) ORDER BY m.sequence"
        ).fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        last = connection.execute("SELECT last FROM sequence WHERE kind = 'result'").fetchone()[0]
    finally:
        connection.close()
    there = {id_: state for id_, state, _ in rows}
    missing = recorded - there.keys() - (words(said, "offered") if pruned else set())
    undelivered = {id_ for id_ in delivered & there.keys() if there[id_] != 4}
    if pruned:
        found.pruned += last - len(rows)
    else:
        assert [sequence for *_, sequence in rows] == list(range(1, last + 1))
    found.images += len(recorded)
    found.lost += len(missing | undelivered)
    found.losing += bool(missing | undelivered)
    found.doubled += len(rows) - len(there)


def tell(fault: Fault, how: str, found: Found) -> None:
    fault.row(how, images=found.images, lost=found.lost, doubled=found.doubled, recovered_s=round(found.slowest_s, 2))


def cycles(home: Path, kind: str, count: int, *, prune: bool = False, **options: Any) -> Found:
    found, rng = Found(), random.Random(3)
    with disk(home, kind) as its, writers(home / "writers") as made:
        for cycle in range(count):
            state = its.folder / f"state-{cycle // AFRESH}"
            if cycle % AFRESH == 0 and cycle:
                shutil.rmtree(its.folder / f"state-{cycle // AFRESH - 1}")
            writer = made.start("record", state, first=cycle * 1_000_000, prune=prune, **options)
            said = cut_under(writer, [its], rng.uniform(0.15, 0.5))
            asyncio.run(look(state, said, found, pruned=prune))
    assert found.images > 5 * count
    assert bool(found.pruned) is prune, "nothing was pruned"
    return found


def case(name: str, matrix: int, *values: object, long: bool = False) -> object:
    return pytest.param(*values, marks=[pytest.mark.fault(name, matrix=(matrix,)), *([pytest.mark.long] if long else [])])


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        case("power cut, ext4", 3, "ext4", 8),
        case("power cut, xfs", 4, "xfs", 4),
        case("power cut, ext4", 3, "ext4", 100, long=True),
        case("power cut, xfs", 4, "xfs", 40, long=True),
    ],
)
def test_what_is_acknowledged_survives_power_cuts(tmp_path: Path, fault: Fault, kind: str, count: int) -> None:
    found = cycles(tmp_path, kind, count)
    tell(fault, f"{count} cuts of a loop mount by ioctl, {SPEED}", found)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.fault("power cut", matrix=(3, 4))
def test_a_ledger_that_syncs_less_loses_rows_at_a_power_cut(tmp_path: Path, fault: Fault, kind: str) -> None:
    lost = Found()
    with disk(tmp_path, kind) as its, writers(tmp_path / "writers") as made:
        for cycle in range(CONTROL):
            writer = made.start("record", its.folder / "state", first=cycle * 1_000_000, synchronous="NORMAL")
            asyncio.run(count_lost(its.folder / "state", cut_under(writer, [its], 0.3), lost))
            if lost.lost:
                break
    fault.control(f"{kind}, synchronous = NORMAL", images=lost.images, lost=lost.lost)


@pytest.mark.fault("power cut", matrix=(3,))
def test_a_disk_that_lies_about_syncs_loses_rows_at_a_power_cut(tmp_path: Path, fault: Fault) -> None:
    if shutil.which("eatmydata") is None:
        pytest.skip("eatmydata is not installed")
    lost = Found()
    with disk(tmp_path, "ext4") as its, writers(tmp_path / "writers", ["eatmydata"]) as made:
        for cycle in range(CONTROL):
            writer = made.start("record", its.folder / "state", first=cycle * 1_000_000)
            asyncio.run(count_lost(its.folder / "state", cut_under(writer, [its], 0.3), lost))
            if lost.lost:
                break
    fault.control("ext4, fsync does nothing (eatmydata)", images=lost.images, lost=lost.lost)


async def count_lost(state: Path, said: Sequence[str], found: Found) -> None:
    recorded = words(said, "recorded")
    async with opened(state) as ledger:
        rows = await ledger.outbox.due("backlog", 1_000_000, 0, 2**62)
        there = {row.id for row in rows} | words(said, "delivered")
    found.images += len(recorded)
    found.lost += len(recorded - there)


@pytest.mark.parametrize(
    ("count", "what", "options"),
    [
        *(
            case("power cut under a checkpoint", 5, count, "checkpoints without end", {"checkpoint_pages": 15}, long=count > 5)
            for count in (3, 30)
        ),
        *(
            case("power cut under retention and vacuum", 5, count, "pruned to 20 rows, vacuumed", {"prune": True}, long=count > 5)
            for count in (3, 30)
        ),
    ],
)
def test_what_is_acknowledged_survives_a_power_cut_under_housekeeping(
    tmp_path: Path, fault: Fault, count: int, what: str, options: dict[str, int]
) -> None:
    found = cycles(tmp_path, "ext4", count, **options)
    tell(fault, f"{count} cuts, {what}", found)
