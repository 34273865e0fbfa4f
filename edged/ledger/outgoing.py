"""What the publisher reads of the outbox. Functions of a read-only connection."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final, Literal

from edged.ledger.accounts import is_sound
from edged.nouns import OutboxRow

Lane = Literal["fresh", "backlog"]

_ROW: Final = (
    "SELECT m.message, m.checksum, m.kind, m.epoch, m.sequence, m.id, t.name, m.properties, m.body, o.attempts, o.replay FROM outbox o "
    "JOIN message m ON m.message = o.message JOIN topic t ON t.topic = o.topic WHERE o.sink = 'mqtt'"
)
_PARKED: Final = "WHERE o.sink = 'mqtt' AND o.state = 3 AND o.state < 4"


def newest(connection: sqlite3.Connection) -> int:
    """The number of the newest message, 0 without one."""
    return int(connection.execute("SELECT coalesce(max(message), 0) FROM message").fetchone()[0])


def due(connection: sqlite3.Connection, lane: Lane, limit: int, after: int, mark: int) -> list[OutboxRow]:
    low, high = (max(after, mark), 2**62) if lane == "fresh" else (after, mark)
    sql = f"{_ROW} AND o.state = 0 AND o.state < 4 AND o.message > ? AND o.message <= ? ORDER BY o.message LIMIT ?"
    return _rows(connection, sql, (low, high, limit), replayed=lane == "backlog")


def probe(connection: sqlite3.Connection, topic: str) -> OutboxRow | None:
    """The oldest held row of a topic."""
    sql = f"{_ROW} AND o.state = 2 AND o.topic = (SELECT topic FROM topic WHERE name = ?) ORDER BY o.message LIMIT 1"  # noqa: S608 - our words only
    return next(iter(_rows(connection, sql, (topic,), replayed=True)), None)


def parked(connection: sqlite3.Connection) -> tuple[int, str]:
    """How many rows are put aside, and topic and reason of the newest."""
    (count,) = connection.execute(f"SELECT count(*) FROM outbox o {_PARKED}").fetchone()  # noqa: S608 - our words only
    newest = f"SELECT t.name, o.reason FROM outbox o JOIN topic t ON t.topic = o.topic {_PARKED} ORDER BY o.message DESC LIMIT 1"  # noqa: S608 - our words only
    return count, ": ".join(connection.execute(newest).fetchone() or ()) if count else ""


def held_topics(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute("SELECT name FROM topic WHERE held_since IS NOT NULL ORDER BY name")
    return tuple(str(name) for (name,) in rows)


def _rows(connection: sqlite3.Connection, sql: str, values: tuple[Any, ...], *, replayed: bool) -> list[OutboxRow]:
    """Nothing leaves that is not what was recorded. DatabaseError (damage): a row is not."""
    rows = []
    for number, check, *said, attempts, replay in connection.execute(sql, values).fetchall():
        if not is_sound(check, *said):
            error = sqlite3.DatabaseError(f"message {number} is not what was written: its checksum differs")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        kind, epoch, sequence, id_, topic, properties, body = said
        again = replayed or bool(replay) or attempts > 0
        rows.append(OutboxRow(number, kind, epoch, sequence, id_, topic, bytes(body), json.loads(properties), attempts, again))
    return rows
