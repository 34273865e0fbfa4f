"""What people ask of the ledger. Functions of a read-only connection; times are aware UTC datetimes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from edged.ledger.schema import DELIVERED, STATE_NAMES

Facts = dict[str, Any]
Row = tuple[Any, ...]
LAST: Final = 2**62
"""Above every row."""
_RESULT: Final = (
    "SELECT r.message, r.id, r.decided, r.camera, r.name, r.page, r.verdict, r.reason, r.lot, r.wafer, r.recipe, r.sequence, o.state "
    "FROM result r LEFT JOIN outbox o ON o.message = r.message AND o.sink = 'mqtt'"
)

_PARKED: Final = (
    "SELECT m.message, m.id, m.kind, m.sequence, t.name, m.created, o.at, o.reason, o.attempts FROM outbox o INDEXED BY outbox_open "
    "JOIN message m ON m.message = o.message JOIN topic t ON t.topic = o.topic "
    "WHERE o.sink = 'mqtt' AND o.state = 3 AND o.state < 4 AND o.message > ? ORDER BY o.message LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """`rows`: outbox rows not delivered, by state; `oldest_s`: age of the oldest that is neither parked nor delivered."""

    rows: dict[str, int] = field(default_factory=lambda: {name: 0 for state, name in STATE_NAMES.items() if state != DELIVERED})
    oldest_s: float | None = None
    results: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    db_bytes: int | None = None

    @property
    def undelivered(self) -> int:
        return sum(count for name, count in self.rows.items() if name != "parked")


def figures(connection: sqlite3.Connection, now: float) -> Figures:
    rows, oldest = dict.fromkeys((name for state, name in STATE_NAMES.items() if state != DELIVERED), 0), None
    for state, count, first in connection.execute(
        "SELECT state, count(*), min(message) FROM outbox INDEXED BY outbox_open WHERE sink = 'mqtt' AND state < 4 GROUP BY state"
    ).fetchall():
        rows[STATE_NAMES[state]] = count
        if STATE_NAMES[state] != "parked":
            (created,) = connection.execute("SELECT created FROM message WHERE message = ?", (first,)).fetchone()
            oldest = created if oldest is None else min(oldest, created)
    bad = dict(connection.execute("SELECT verdict, count(*) FROM result INDEXED BY result_bad WHERE verdict <> 'PASS' GROUP BY verdict"))
    (results,) = connection.execute("SELECT count(*) FROM result").fetchone()
    (pages,), (page_bytes,) = connection.execute("PRAGMA page_count").fetchone(), connection.execute("PRAGMA page_size").fetchone()
    verdicts = {"PASS": results - sum(bad.values()), **{kind: bad.get(kind, 0) for kind in ("FAIL", "REVIEW", "ERROR")}}
    return Figures(rows, None if oldest is None else max(0.0, now - oldest), results, verdicts, pages * page_bytes)


def results(
    connection: sqlite3.Connection,
    *,
    camera: str | None = None,
    verdict: str | None = None,
    lot: str | None = None,
    wafer: str | None = None,
    since: datetime | None = None,
    after: str | None = None,
    limit: int = 50,
) -> tuple[list[Facts], str | None]:
    """Newest first, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
    terms, values = ["r.message < ?"], list[Any]([place(after, "a list of results", LAST)])
    for column, wanted in (("camera", camera), ("verdict", verdict), ("lot", lot), ("wafer", wafer)):
        if wanted is not None:
            # The second term lets SQLite use the index that leaves out the common value.
            terms.append(f"r.{column} = ?" + (" AND r.verdict <> 'PASS'" if column == "verdict" and wanted != "PASS" else ""))
            values.append(wanted)
    if since is not None:
        terms.append("r.decided >= ?")
        values.append(since.timestamp())
    found = connection.execute(f"{_RESULT} WHERE {' AND '.join(terms)} ORDER BY r.message DESC LIMIT ?", (*values, limit + 1)).fetchall()
    rows, cursor = cut(found, limit)
    return [_result(row) for row in rows], cursor


def place(after: str | None, of: str, begin: int) -> int:
    """The row behind which a list goes on, `begin` without a cursor. ValueError: `after` is no cursor of ours."""
    if after is None:
        return begin
    if not (after.isascii() and after.isdigit()):
        raise ValueError(f"{after!r} is no cursor of {of}")
    return min(int(after), LAST)


def cut(found: list[Row], limit: int) -> tuple[list[Row], str | None]:
    """Of up to `limit` + 1 rows, each beginning with its number: those of this page, and the cursor of the next."""
    return found[:limit], str(found[limit - 1][0]) if len(found) > limit else None


def parked(connection: sqlite3.Connection, after: str | None, limit: int) -> tuple[list[Facts], str | None]:
    """Rows of the outbox that are put aside, oldest first, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
    above = place(after, "the outbox", 0)
    rows, cursor = cut(connection.execute(_PARKED, (above, limit + 1)).fetchall(), limit)
    return [_parked(row) for row in rows], cursor


def result(connection: sqlite3.Connection, id_: str) -> bytes | None:
    """The message as it was, or will be, published."""
    found = connection.execute(
        "SELECT m.body FROM result r JOIN message m ON m.message = r.message WHERE r.id = ?", (uuid_bytes(id_),)
    ).fetchone()
    return None if found is None else bytes(found[0])


def counts(connection: sqlite3.Connection, since: datetime) -> dict[str, int]:
    """Verdicts decided since then. Rows are in the order of their commits, so only the newest are looked at."""
    last = connection.execute("SELECT message FROM result WHERE decided < ? ORDER BY message DESC LIMIT 1", (since.timestamp(),)).fetchone()
    rows = connection.execute("SELECT verdict, count(*) FROM result WHERE message > ? GROUP BY verdict", (last[0] if last else 0,))
    return {str(verdict): int(count) for verdict, count in rows}


def _parked(row: Row) -> Facts:
    _, id_, kind, sequence, topic, created, at, reason, attempts = row
    about = {"id": id_, "kind": kind, "sequence": f"{sequence:012d}", "topic": topic}
    return {**about, "created": utc(created), "parked": utc(at), "reason": reason, "attempts": attempts}


def _result(row: Row) -> Facts:
    _, id_, decided, camera, name, page, verdict, reason, lot, wafer, recipe, sequence, state = row
    return {
        "id": uuid_text(id_),
        "decided": utc(decided),
        "camera": camera,
        "name": name,
        "page": page,
        "verdict": verdict,
        "reason": reason,
        "lot_id": lot,
        "wafer_id": wafer,
        "recipe": recipe,
        "sequence": f"{sequence:012d}",
        "delivered": None if state is None else state == DELIVERED,
    }


def uuid_text(id_: bytes | None) -> str | None:
    return str(UUID(bytes=id_)) if id_ else None


def uuid_bytes(id_: str) -> bytes | None:
    """None, which no row has, for what is no id."""
    try:
        return UUID(id_).bytes
    except ValueError:
        return None


def utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
