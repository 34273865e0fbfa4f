"""Landings that are judged again: what is known of one, and the rows that ask for it.

Invariants
- A row allocates its number in the transaction that asks; nobody else ever gets it, whatever became of the row.
- One row at most is open for each landing. It is ended by the transaction that records its results (`record.py`), or by `give_up`.
- What is open after a crash is still open: whoever judges reads it anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from edged.errors import Conflict
from edged.ledger.audit import Audit
from edged.ledger.identity import identity
from edged.ledger.judged import Judged, Rejudgement
from edged.ledger.read import LAST, Facts, cut, place, utc, uuid_bytes, uuid_text
from edged.ledger.reading import Readers
from edged.ledger.record import Recorder
from edged.ledger.rows import read_ns
from edged.ledger.writer import Writer
from edged.nouns import Change, PageResult

MAX_OPEN: Final = 1000
ASKED: Final = "asked"
RELEASED: Final = "released"
LATE: Final = "late"


class Rejudgements:
    def __init__(
        self, writer: Writer, readers: Readers, recorder: Recorder, audit: Audit, *, source: str, wall: Callable[[], float]
    ) -> None:
        self._writer, self._readers, self._recorder, self._audit = writer, readers, recorder, audit
        self._source, self._wall = source, wall

    async def judged(self, id_: str) -> Judged | None:
        """The landing that a result of this id belongs to; the results themselves may be pruned."""
        return await self._readers.run(lambda connection: _judged(connection, _row_of(connection, uuid_bytes(id_))))

    async def ask(
        self,
        judged: Judged,
        why: str,
        who: str,
        *,
        recipe: str | None = None,
        sidecar: tuple[str, bytes] | None = None,
        change: Callable[[Rejudgement], Change] | None = None,
        decided: Callable[[Rejudgement], Sequence[PageResult]] | None = None,
    ) -> Rejudgement:
        """A number, and the row that asks for its judgement; `change` is audited with it. Conflict: one is open already.

        `decided`: the pages' verdicts, where no new look at the image is needed: recorded in the same transaction.
        """
        kind, data = sidecar or (None, None)

        def run(connection: sqlite3.Connection) -> Rejudgement:
            if connection.execute("SELECT 1 FROM rejudgement WHERE landing = ? AND ended IS NULL", (judged.row,)).fetchone():
                raise Conflict("rejudgement-open", f"{judged.name} is being judged again already.", "Wait for its result.")
            if connection.execute("SELECT count(*) FROM rejudgement WHERE ended IS NULL").fetchone()[0] >= MAX_OPEN:
                raise Conflict("rejudgements-full", f"{MAX_OPEN} images wait to be judged again.", "Wait until some of them are.")
            judgement = next_judgement(connection, judged.row)
            number = connection.execute(
                "INSERT INTO rejudgement (landing, judgement, why, recipe, sidecar_kind, sidecar, who, asked) VALUES (?,?,?,?,?,?,?,?)",
                (judged.row, judgement, why, recipe, kind, data, who, self._wall()),
            ).lastrowid
            assert number is not None
            if why == LATE:
                connection.execute("DELETE FROM awaiting WHERE landing = ?", (judged.row,))
            row = self._rejudgement((number, judgement, why, recipe, kind, data), judged)
            if change is not None:
                self._audit.write(connection, change(row))
            if decided is not None:
                self._recorder.record(connection, decided(row))
            return row

        return await self._writer.submit(run)

    async def rejected(self, after: str | None, limit: int) -> tuple[list[Facts], str | None]:
        """Landings whose newest judgement is ERROR, newest first, and the cursor of the next page. ValueError: no cursor of ours.

        `copies`: ids under which a copy may be in quarantine; `released`: one is being judged again.
        """
        return await self._readers.run(lambda connection: _rejected(connection, place(after, "the quarantine", LAST), limit))

    async def open(self) -> list[Rejudgement]:
        """Oldest first."""

        def read(connection: sqlite3.Connection) -> list[Rejudgement]:
            rows = connection.execute(
                "SELECT landing, rejudgement, judgement, why, recipe, sidecar_kind, sidecar FROM rejudgement WHERE ended IS NULL "
                "ORDER BY rejudgement"
            ).fetchall()
            found = [(row, _judged(connection, row[0])) for row in rows]
            return [self._rejudgement(row[1:], judged) for row, judged in found if judged is not None]

        return await self._readers.run(read)

    async def give_up(self, row: Rejudgement, outcome: str, cause: str) -> None:
        """It cannot be done any more: said in an event, and its number is never used."""

        def run(connection: sqlite3.Connection) -> None:
            ended = connection.execute(
                "UPDATE rejudgement SET ended = ?, outcome = ?, sidecar = NULL WHERE rejudgement = ? AND ended IS NULL",
                (self._wall(), outcome, row.number),
            ).rowcount
            if ended:
                told = {"camera": row.judged.camera, "file": row.judged.name, "supersedes": row.judged.ids[0] if row.judged.ids else None}
                self._recorder.announce(connection, "vanished", {**told, "judgement": row.judgement, "cause": cause})

        await self._writer.submit(run)

    def _rejudgement(self, row: tuple[Any, ...], judged: Judged) -> Rejudgement:
        number, judgement, why, recipe, kind, sidecar = row
        at = (self._source, judged.camera, judged.path, judged.size, judged.mtime_ns, judged.sha256)
        return Rejudgement(number, judgement, why, recipe, kind, sidecar, str(identity(*at, 0, judgement)), judged)


def next_judgement(connection: sqlite3.Connection, landing: int) -> int:
    """Results may be pruned; the rows that asked for them stay as long as the landing."""
    ((judged,),) = connection.execute("SELECT max(judgement) FROM result WHERE landing = ?", (landing,)).fetchall()
    ((asked,),) = connection.execute("SELECT max(judgement) FROM rejudgement WHERE landing = ?", (landing,)).fetchall()
    return 1 + max(judged or 0, asked or 0)


def _rejected(connection: sqlite3.Connection, below: int, limit: int) -> tuple[list[Facts], str | None]:
    found = connection.execute(
        "SELECT r.message, r.landing, r.id, r.camera, r.name, r.page, r.reason, r.decided, r.judgement, l.size, "
        "EXISTS (SELECT 1 FROM rejudgement j WHERE j.landing = r.landing AND j.ended IS NULL) "
        "FROM result r JOIN landing l ON l.landing = r.landing WHERE r.verdict = 'ERROR' AND r.verdict <> 'PASS' AND r.message < ? "
        "AND r.judgement = (SELECT max(n.judgement) FROM result n WHERE n.landing = r.landing) "
        "AND NOT EXISTS (SELECT 1 FROM result e WHERE e.landing = r.landing AND e.judgement = r.judgement AND e.verdict = 'ERROR' "
        "AND e.page < r.page) ORDER BY r.message DESC LIMIT ?",
        (below, limit + 1),
    ).fetchall()
    rows, cursor = cut(found, limit)
    told = []
    for _, landing, id_, camera, name, page, reason, decided, judgement, size, released in rows:
        judged = _judged(connection, landing)
        told.append(
            {
                "id": uuid_text(id_),
                "camera": camera,
                "name": name,
                "page": page,
                "reason": reason,
                "decided": utc(decided),
                "judgement": judgement,
                "bytes": size,
                "released": bool(released),
                "copies": judged.copies if judged else (),
            }
        )
    return told, cursor


def _row_of(connection: sqlite3.Connection, id_: bytes | None) -> int | None:
    if id_ is None:
        return None
    found = connection.execute("SELECT landing FROM result WHERE id = ?", (id_,)).fetchone()
    # Of a pruned result only the landing is left. It has no index: this is asked rarely, and by a person.
    found = found or connection.execute("SELECT coalesce(same_as, landing) FROM landing WHERE id = ? LIMIT 1", (id_,)).fetchone()
    return None if found is None else int(found[0])


def _judged(connection: sqlite3.Connection, row: int | None) -> Judged | None:
    found = connection.execute(
        "SELECT camera, path, size, mtime_ns, sha256, detected, recorded, id FROM landing WHERE landing = ? AND id IS NOT NULL", (row,)
    ).fetchone()
    if found is None:
        return None
    camera, path, size, mtime_ns, sha256, detected, recorded, first_id = found
    results = connection.execute(
        "SELECT r.judgement, r.page, r.id, r.recipe, m.body FROM result r JOIN message m ON m.message = r.message WHERE r.landing = ? "
        "ORDER BY r.judgement, r.page",
        (row,),
    ).fetchall()
    newest = results[-1][0] if results else 0
    pages = [result for result in results if result[0] == newest]
    firsts = {judgement: id_ for judgement, _, id_, _, _ in reversed(results)}
    places = connection.execute(
        "SELECT path, moved_to FROM landing WHERE landing = ? OR same_as = ? ORDER BY landing DESC", (row, row)
    ).fetchall()
    assert row is not None
    return Judged(
        row=row,
        camera=camera,
        path=bytes(path),
        size=size,
        mtime_ns=read_ns(mtime_ns),
        sha256=(sha256 or b"").hex(),
        detected=datetime.fromtimestamp(detected or recorded, UTC),
        judgement=newest,
        ids=tuple(str(UUID(bytes=page[2])) for page in pages) or (str(UUID(bytes=first_id)),),
        bodies=tuple(json.loads(page[4]) for page in pages),
        recipe=pages[0][3] if pages else None,
        places=tuple((bytes(path), moved_to) for path, moved_to in places),
        copies=tuple(dict.fromkeys(str(UUID(bytes=id_)) for id_ in (*firsts.values(), first_id))),
    )
