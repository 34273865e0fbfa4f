"""What the MES's word does to the rows that it is about. Functions of the write connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edged.ledger.schema import ACCEPTED, DELIVERED, DUE, HELD, MQTT

PIECE: Final = 1000
FRESHLY_SENT_S: Final = 10.0
"""What was sent for the first time so shortly before may have crossed the word on its way."""


@dataclass(frozen=True, slots=True)
class Word:
    """Of this epoch and kind everything up to the number `up_to` has arrived, but what lies in the ranges `missing`."""

    epoch: str
    kind: str
    up_to: int
    missing: Sequence[tuple[int, int]]

    def arrived(self, sequence: int) -> bool:
        return not any(first <= sequence <= last for first, last in self.missing)


def settle(
    connection: sqlite3.Connection, word: Word, after: int, *, now: float, at: float, ack_timeout_s: float
) -> tuple[int | None, int, int]:
    """One piece of the accepted rows behind row `after`: the row to go on behind, or None; how many are delivered; how many are due again.

    `now`: by the monotonic clock of `sent_at`; `at`: the wall clock.
    """
    bound = connection.execute(
        "SELECT message FROM message WHERE kind = ? AND epoch = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
        (word.kind, word.epoch, word.up_to),
    ).fetchone()
    if bound is None:
        return None, 0, 0
    rows = connection.execute(
        "SELECT o.message, m.kind, m.epoch, m.sequence, o.sent_at, o.attempts FROM outbox o JOIN message m ON m.message = o.message "
        "WHERE o.sink = 'mqtt' AND o.state = 1 AND o.state < 4 AND o.message > ? AND o.message <= ? ORDER BY o.message LIMIT ?",
        (after, bound[0], PIECE),
    ).fetchall()
    done, again = [], []
    for row, kind, epoch, sequence, sent_at, attempts in rows:
        if (kind, epoch) != (word.kind, word.epoch):
            continue
        if word.arrived(sequence):
            done.append((DELIVERED, at, row))
        elif now - (sent_at or 0.0) > (FRESHLY_SENT_S if attempts <= 1 else ack_timeout_s):
            again.append((DUE, at, row))
    connection.executemany("UPDATE outbox SET state = ?, at = ? WHERE message = ? AND sink = 'mqtt'", done + again)
    return (rows[-1][0] if len(rows) == PIECE else None), len(done), len(again)


def settle_early(connection: sqlite3.Connection, word: Word, in_flight: Sequence[int], at: float) -> int:
    """The MES was quicker than the broker's answer to us: how many of the rows in flight are delivered."""
    count = 0
    for row in in_flight:
        found = connection.execute(
            "SELECT sequence FROM message WHERE message = ? AND kind = ? AND epoch = ? AND sequence <= ?",
            (row, word.kind, word.epoch, word.up_to),
        ).fetchone()
        if found is not None and word.arrived(found[0]):
            count += connection.execute(
                "UPDATE outbox SET state = ?, at = ? WHERE message = ? AND sink = ? AND state IN (?, ?, ?)",
                (DELIVERED, at, row, MQTT, DUE, HELD, ACCEPTED),
            ).rowcount
    return count
