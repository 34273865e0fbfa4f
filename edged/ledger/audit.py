"""Who changed what, when: a row and an `event/audit` for every change of state that somebody asked for, in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from edged.ledger.read import LAST, Facts, cut, place, utc
from edged.ledger.reading import Readers
from edged.ledger.record import Recorder
from edged.ledger.rows import text
from edged.ledger.writer import Writer
from edged.nouns import Change


class Audit:
    def __init__(self, writer: Writer, readers: Readers, recorder: Recorder, wall: Callable[[], float]) -> None:
        self._writer, self._readers, self._recorder, self._wall = writer, readers, recorder, wall

    async def tell(self, change: Change) -> None:
        """For a change that is no row of the ledger itself; one that is calls `write` in its own transaction."""
        await self._writer.submit(lambda connection: self.write(connection, change))

    def write(self, connection: sqlite3.Connection, change: Change) -> None:
        before, after = (None if each is None else json.dumps(dict(each), default=str) for each in (change.before, change.after))
        connection.execute(
            "INSERT INTO audit (at, age, who, role, what, target, before, after) VALUES (?,?,?,?,?,?,?,?)",
            (self._wall(), self._recorder.age(), text(change.who), change.role, change.what, text(change.target), before, after),
        )
        told = {"who": change.who, "role": change.role, "what": change.what, "target": change.target}
        self._recorder.announce(connection, "audit", {**told, "before": change.before, "after": change.after})

    async def read(self, after: str | None, limit: int) -> tuple[list[Facts], str | None]:
        """Newest first, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
        return await self._readers.run(lambda connection: _read(connection, place(after, "the audit", LAST), limit))


def _read(connection: sqlite3.Connection, below: int, limit: int) -> tuple[list[Facts], str | None]:
    found = connection.execute(
        "SELECT audit, at, who, role, what, target, before, after FROM audit WHERE audit < ? ORDER BY audit DESC LIMIT ?",
        (below, limit + 1),
    ).fetchall()
    rows, cursor = cut(found, limit)
    told = [
        {
            "at": utc(at),
            "who": who,
            "role": role,
            "what": what,
            "target": target,
            "before": None if before is None else json.loads(before),
            "after": None if after is None else json.loads(after),
        }
        for _, at, who, role, what, target, before, after in rows
    ]
    return told, cursor
