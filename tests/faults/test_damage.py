"""The ledger's file or its log is damaged at random: what the event says is lost is what is lost, and every image has its verdict again."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened, page
from edged.errors import LedgerCorrupt
from edged.ledger import inspect
from edged.nouns import Recording
from rigs.faults import Fault
from rigs.ledger_files import PAGE, overwrite

FIRST, LATER = 120, 150
Message = tuple[str, str, int]
"""kind, epoch, sequence"""


def image(number: int) -> Any:
    return page(b"%d.png" % number, b"content %d" % number)


async def template(state: Path, copy: Path) -> dict[int, str]:
    """A ledger with a past: pruned, rebuilt once, a row put aside, half delivered, killed with much in its log. Image -> its id."""
    ids: dict[int, str] = {}
    async with opened(state) as ledger:
        for number, one in enumerate(await asyncio.gather(*(ledger.record([image(n)]) for n in range(FIRST)))):
            ids[number] = one.ids[0]
        rows = await ledger.outbox.due("backlog", 1000, 0, 2**62)
        await ledger.outbox.park([rows[5].row], "too large", ("row-parked", {"sequences": [[6, 6]]}))
        await ledger.outbox.delivered([row.row for row in rows[: FIRST // 2] if row.sequence != 6])
    async with opened(state, retain_rows=FIRST - 30, tick_s=0.3):
        deadline = time.monotonic() + 15
        while len(messages(state)) > FIRST - 25:
            assert time.monotonic() < deadline, "nothing was pruned"
            await asyncio.sleep(0.05)
    (state / "ledger.suspect").touch()
    async with opened(state) as ledger:
        for number in range(FIRST, FIRST + LATER):
            ids[number] = (await ledger.record([image(number)])).ids[0]
            if number == FIRST + LATER // 2:
                with closing(sqlite3.connect(state / "ledger.db")) as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        shutil.copytree(state, copy)
    return ids


def messages(state: Path) -> dict[Message, tuple[str, bytes]]:
    with closing(sqlite3.connect(f"file:{state / 'ledger.db'}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT kind, epoch, sequence, id, body FROM message").fetchall()
    return {(kind, epoch, sequence): (id_, bytes(body)) for kind, epoch, sequence, id_, body in rows}


def flip(state: Path, rng: random.Random, name: str = "ledger.db", count: int = 40) -> str:
    content = bytearray((state / name).read_bytes())
    for _ in range(count):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    (state / name).write_bytes(content)
    return f"{count} bits of {name}"


def noise(state: Path, rng: random.Random) -> str:
    pages = (state / "ledger.db").stat().st_size // PAGE
    chosen = rng.sample(range(1, pages + 1), rng.randrange(1, 9))
    overwrite(state / "ledger.db", chosen, rng.randrange(2**32))
    return f"pages {chosen}"


def zeros(state: Path, rng: random.Random) -> str:
    content = bytearray((state / "ledger.db").read_bytes())
    at = rng.randrange(len(content) // PAGE) * PAGE
    content[at : at + PAGE] = bytes(PAGE)
    (state / "ledger.db").write_bytes(content)
    return f"page {at // PAGE + 1} zero"


def cut(state: Path, rng: random.Random, name: str = "ledger.db") -> str:
    size = (state / name).stat().st_size
    left = rng.choice([0, rng.randrange(size), rng.randrange(size // PAGE) * PAGE])
    with (state / name).open("r+b") as file:
        file.truncate(left)
    return f"{name} cut to {left}"


def garbage(state: Path, rng: random.Random) -> str:
    (state / "ledger.db").write_bytes(rng.randbytes(rng.randrange(1, 50_000)))
    return "garbage"


def gone(state: Path, rng: random.Random) -> str:
    name = rng.choice(["ledger.db", "ledger.db-wal"])
    (state / name).unlink()
    return f"{name} deleted"


DAMAGES: Sequence[Callable[[Path, random.Random], str]] = (
    flip,
    noise,
    zeros,
    cut,
    lambda state, rng: cut(state, rng, "ledger.db-wal"),
    lambda state, rng: flip(state, rng, "ledger.db-wal", 3),
    garbage,
    gone,
)


async def one(state: Path, before: dict[Message, tuple[str, bytes]], ids: dict[int, str]) -> tuple[int, int, int]:
    """What of the messages is lost and not said, or said and not lost; how many ids differ or stand twice; how often it was set aside."""
    try:
        async with opened(state) as ledger:
            await ledger.outbox.due("backlog", 10_000, 0, 2**62)
    except LedgerCorrupt:
        pass  # a damaged message was about to leave: the daemon ends, and its next start rebuilds
    problems = inspect(state, rebuild=True).problems
    assert not problems or not asides(state), f"rebuilt, and still not whole: {problems}"
    if problems:
        async with opened(state):
            pass
    rebuilt = asides(state)
    assert rebuilt <= 1
    after = messages(state)
    wrong = sum(after[key] != message for key, message in before.items() if key in after)
    missing = before.keys() - after.keys()
    told = [json.loads(body) for (kind, *_), (_, body) in after.items() if kind == "event"]
    said = [
        event["data"]
        for event in told
        if event["type"].endswith("ledger-set-aside.v1") and event["id"] not in {i for i, _ in before.values()}
    ]
    for data in said:
        missing -= claimed(data, before)
        if data["lost_messages"] is not None:
            lost = len(before.keys() - after.keys())
            assert data["salvaged"]["message"] + data["lost_messages"] == len(before) or data["lost_messages"] == lost, data
            wrong += data["lost_messages"] != lost
    async with opened(state) as ledger:
        again = await asyncio.gather(*(ledger.record([image(number)]) for number in ids))
    doubled = sum(one.ids[0] != id_ for one, id_ in zip(again, ids.values(), strict=True))
    doubled += sum(one.outcome not in (Recording.RECORDED, Recording.KNOWN, Recording.SAME) for one in again)
    assert inspect(state).problems == ()
    kept = {id_ for (kind, *_), (id_, _) in before.items() if kind == "result"}
    results = [id_ for (kind, *_), (id_, _) in messages(state).items() if kind == "result"]
    unjudged = kept - set(results)  # an image whose verdict is lost is judged again, under the same id
    return len(missing) + wrong + len(unjudged), doubled + len(results) - len(set(results)), rebuilt


def asides(state: Path) -> int:
    """How often this ledger was set aside, but for the once in its past."""
    return len(list((state / "set-aside").iterdir())) - 1 if (state / "set-aside").exists() else 0


def claimed(data: dict[str, Any], before: dict[Message, tuple[str, bytes]]) -> set[Message]:
    """The messages that an event says are lost, or about which it says that nothing can be said."""
    parts = [{"kind": kind, **part} for kind, part in data["lost"].items()] + data.get("lost_of_earlier_epochs", [])
    found: set[Message] = set()
    for part in parts:
        for key in before:
            kind, epoch, number = key
            within = any(low <= number <= high for low, high in part["ranges"])
            beyond = number > part.get("unknown_above", 2**62) or number < part.get("unknown_below", 0)
            if kind == part["kind"] and epoch == part["epoch"] and (within or beyond):
                found.add(key)
    if data["lost_messages"] is None:  # what it cannot know, it must not claim to know
        known = {(part["kind"], part["epoch"]) for part in parts}
        found |= {key for key in before if key[:2] not in known}
    return found


@pytest.mark.parametrize("seeds", [pytest.param(16), pytest.param(400, marks=pytest.mark.long)])
@pytest.mark.fault("ledger damaged at random", matrix=(48,))
def test_what_is_said_to_be_lost_is_what_is_lost(tmp_path: Path, fault: Fault, seeds: int) -> None:
    ids = asyncio.run(template(tmp_path / "made", tmp_path / "template"))
    before = messages(tmp_path / "template")
    unsaid = doubled = rebuilt = 0
    for seed in range(seeds):
        rng, state = random.Random(seed), tmp_path / "state"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(tmp_path / "template", state)
        what = DAMAGES[seed % len(DAMAGES)](state, rng)
        its_unsaid, its_doubled, times = asyncio.run(one(state, before, ids))
        assert not its_unsaid and not its_doubled, f"seed {seed} ({what}): {its_unsaid} not said, {its_doubled} doubled"
        unsaid, doubled, rebuilt = unsaid + its_unsaid, doubled + its_doubled, rebuilt + times
    assert rebuilt > seeds // 2
    how = f"{seeds} damages: bits, pages, cuts, garbage, log; {rebuilt} rebuilt"
    fault.row(how, images=len(ids) * seeds, lost=unsaid, doubled=doubled, note="lost counts what the event did not say")
