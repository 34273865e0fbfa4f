"""What may be forgotten, and when: by age, by rows, by bytes.

Invariants
- Only a message that every sink has confirmed is pruned; a parked one stays.
- The identity of a file stays after its result, until a scan no longer lists the file and the retention time has passed.
- Age is counted by the ledger's own clock: it advances with the monotonic clock, and at a start by at most `DOWN_CAP_S` for the time we
  were away. No jump of the wall clock can empty the ledger.
- Before its time a result goes only with `when_full = "forget-delivered"`, only while the disk wants room, and only if it is delivered.
- Work is done in pieces of some milliseconds, so that a verdict never waits for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Final

from edged.config import Ledger as LedgerConfig
from edged.config import WhenFull
from edged.failpoints import reach

PIECE: Final = 100
WANTED_PIECE: Final = 16
"""On a full disk: what is written to delete it must fit into what the ballast left."""
BUDGET_S: Final = 0.02
WANTED_BUDGET_S: Final = 0.2
DOWN_CAP_S: Final = 7 * 86_400.0
PERSIST_S: Final = 60.0
VACUUM_PAGES: Final = 200
WANTED_TURNS: Final = 10
FREE_PAGES: Final = 5000
"""So many free pages stay in the file: they are used again, and giving them back costs time."""


class AgeClock:
    """Seconds of the ledger's life."""

    def __init__(
        self, connection: sqlite3.Connection, *, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        stored = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('age', 'age_wall')").fetchall())
        away = wall() - float(stored.get("age_wall", wall()))
        self._base = float(stored.get("age", 0.0)) + min(max(away, 0.0), DOWN_CAP_S)
        self._started, self._monotonic, self._wall = monotonic(), monotonic, wall

    def now(self) -> int:
        return int(self._base + self._monotonic() - self._started)

    def save(self, connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [("age", self.now()), ("age_wall", self._wall())])


class Retention:
    """`results()` tells about how many results there are; it may lag behind. `wanted_bytes()`: how much the disk lacks."""

    def __init__(
        self,
        config: LedgerConfig,
        age: AgeClock,
        results: Callable[[], int],
        wanted_bytes: Callable[[], int] = lambda: 0,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._age, self._results, self._monotonic = config, age, results, monotonic
        self._wanted_bytes, self._forgets = wanted_bytes, config.when_full is WhenFull.FORGET_DELIVERED
        self._after = 0
        self._saved = monotonic()
        self._rest_until = 0.0
        self.pruned = 0

    def tick(self, connection: sqlite3.Connection) -> None:
        """In the writer's thread, outside a transaction, about once a second."""
        now = self._monotonic()
        if now - self._saved >= PERSIST_S:
            self._saved = now
            self._age.save(connection)
        wanted = self._wanted_bytes()
        if now < self._rest_until and not wanted:
            return
        until, excess = now + (WANTED_BUDGET_S if wanted else BUDGET_S), self._results() - self._config.retain_rows
        too_large = self._too_large(connection)
        piece = WANTED_PIECE if wanted else PIECE
        while self._monotonic() < until:
            examined, deleted = self._piece(connection, piece, excess, too_large)
            excess -= deleted
            if examined < piece:
                self._after = 0
                self._rest_until = self._monotonic() + PERSIST_S * (excess <= 0 and not too_large)
                break
            if wanted:
                _write_back(connection)  # on a full disk the log must not grow
            too_large = too_large and self._too_large(connection)
        self._shrink(connection, wanted)

    def _too_large(self, connection: sqlite3.Connection) -> bool:
        pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
        # What is deleted already goes back to the disk at the end of this turn and of those that follow.
        forgets = self._forgets and free * size < self._wanted_bytes()
        return forgets or int((pages - free) * size) > self._config.retain_bytes

    def _piece(self, connection: sqlite3.Connection, piece: int, excess: int, too_large: bool) -> tuple[int, int]:
        """Looks at `piece` of the oldest messages; returns how many it looked at before one that must stay by its age, and deleted."""
        limit = self._age.now() - self._config.retain_days * 86_400
        # The newest message stays, so that row numbers never begin anew.
        rows = connection.execute(
            "SELECT m.message, m.age, r.message IS NOT NULL, EXISTS (SELECT 1 FROM outbox o WHERE o.message = m.message AND o.state < 4), "
            "m.kind, m.epoch, m.sequence FROM message m LEFT JOIN result r ON r.message = m.message "
            "WHERE m.message > ? AND m.message < (SELECT max(message) FROM message) ORDER BY m.message LIMIT ?",
            (self._after, piece),
        ).fetchall()
        doomed: list[tuple[int]] = []
        examined = deleted = 0
        numbers: list[tuple[str, str, int]] = []
        for message, age, is_result, is_open, *number in rows:
            if not (age < limit or excess > deleted or too_large):
                break
            examined += 1
            self._after = message
            if not is_open:
                doomed.append((message,))
                numbers.append(tuple(number))
                deleted += bool(is_result)
        connection.execute("BEGIN IMMEDIATE")
        if doomed:
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('pruned', 1)")
            account(connection, numbers)
        connection.executemany("UPDATE landing SET pruned = 1 WHERE landing = (SELECT landing FROM result WHERE message = ?)", doomed)
        connection.executemany("DELETE FROM outbox WHERE message = ?", doomed)
        connection.executemany("DELETE FROM result WHERE message = ?", doomed)
        connection.executemany("DELETE FROM message WHERE message = ?", doomed)
        connection.execute(
            "DELETE FROM landing WHERE landing IN (SELECT l.landing FROM landing l WHERE l.gone IS NOT NULL AND l.age < ? "
            "AND NOT EXISTS (SELECT 1 FROM result r WHERE r.landing = l.landing) "
            "AND NOT EXISTS (SELECT 1 FROM rejudgement j WHERE j.landing = l.landing AND j.ended IS NULL) ORDER BY l.age LIMIT ?)",
            (limit, piece),
        )
        connection.execute(
            "DELETE FROM audit WHERE audit IN (SELECT audit FROM audit WHERE age < ? AND audit < (SELECT max(audit) FROM audit) LIMIT ?)",
            (limit, piece),
        )
        reach("retention.piece")
        connection.execute("COMMIT")
        reach("retention.pruned")
        self.pruned += len(doomed)
        return examined, deleted

    def _shrink(self, connection: sqlite3.Connection, wanted: int) -> None:
        """Gives deleted pages back to the disk: above a share of the file, or all that a full disk wants."""
        (pages,), (free,) = connection.execute("PRAGMA page_count").fetchone(), connection.execute("PRAGMA freelist_count").fetchone()
        turns = min(free // VACUUM_PAGES + 1, WANTED_TURNS) if wanted and free else int(free > max(FREE_PAGES, pages // 5))
        for _ in range(turns):
            connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")  # execute() would step it once: one page
            if wanted:
                _write_back(connection)


def _write_back(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def account(connection: sqlite3.Connection, numbers: Iterable[tuple[str, str, int]]) -> None:
    """(kind, epoch, sequence) of what is pruned, as few ranges as there can be."""
    for kind, epoch, sequence in numbers:
        of, first, last = (kind, epoch), sequence, sequence
        (before,) = connection.execute(
            "SELECT max(first) FROM absent WHERE kind = ? AND epoch = ? AND first < ?", (*of, sequence)
        ).fetchone()
        if before is not None:
            joined = connection.execute(
                "UPDATE absent SET last = ? WHERE kind = ? AND epoch = ? AND first = ? AND last = ?", (sequence, *of, before, sequence - 1)
            ).rowcount
            first = before if joined else first
        found = connection.execute("SELECT last FROM absent WHERE kind = ? AND epoch = ? AND first = ?", (*of, sequence + 1)).fetchone()
        if found is not None:
            connection.execute("DELETE FROM absent WHERE kind = ? AND epoch = ? AND first = ?", (*of, sequence + 1))
            last = found[0]
        connection.execute("INSERT OR REPLACE INTO absent VALUES (?, ?, ?, ?, 'pruned')", (*of, first, last))
