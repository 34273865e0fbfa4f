"""A ledger that does not read: set aside whole, and what reads of it carried into a new one, with a new epoch.

Invariants
- The damaged file and its log are moved, never changed and never deleted.
- The new file is made beside it and put in place whole: a crash at any step begins anew, or ends what was ended.
- Salvaged messages keep body, epoch and sequence. One whose delivery is not known is delivered once more.
- A landing whose result is lost is forgotten, so that its file, if it is still there, is judged again: under the same id.
- What is lost is said exactly, or said to be unknown.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from edged.errors import LedgerCorrupt
from edged.failpoints import reach
from edged.ledger.connection import check, open_reader, open_writer
from edged.ledger.identity import content_hash, name_hash, place_hash
from edged.ledger.schema import DUE, MQTT

PIECE: Final = 500
COARSER_AFTER: Final = 1000
TABLES: Final = {
    "topic": "topic",
    "camera": None,
    "watched": None,
    "pause": None,
    "landing": "landing",
    "message": "message",
    "result": "message",
    "outbox": "message",
    "audit": "audit",
    "rejudgement": "rejudgement",
}
"""Table -> the number by which it is read in ranges; parents before children."""

Announce = Callable[[sqlite3.Connection, str, dict[str, Any]], object]


def suspect(path: Path) -> Path:
    """The mark that a page was found damaged while the daemon ran: the next start does not trust the file."""
    return path.with_name("ledger.suspect")


def distrust(path: Path) -> None:
    """The next start rebuilds, whatever it sees at first sight."""
    with suppress(OSError):
        suspect(path).touch(mode=0o600)


def ready(path: Path, announce: Announce, now: datetime | None = None) -> dict[str, Any] | None:
    """Sees to it that the ledger at `path` can be opened; returns what was said about one that was set aside, or None."""
    beside = path.with_name("ledger.rebuilt.db")
    if beside.exists() and not path.exists():
        _put_in_place(beside, path)  # a crash came between the two moves
    try:
        if suspect(path).exists():
            raise LedgerCorrupt(str(path), "a damaged page was found while the daemon ran")
        check(path)
    except LedgerCorrupt as error:
        return _rebuild(path, beside, error.cause, announce, now or datetime.now(UTC))
    return None


def _rebuild(path: Path, beside: Path, cause: str, announce: Announce, now: datetime) -> dict[str, Any]:
    for name in (beside, *_companions(beside)):
        name.unlink(missing_ok=True)
    aside = path.parent / "set-aside" / now.strftime("ledger-%Y%m%dT%H%M%S.%f")
    new = open_writer(beside)
    try:
        new.execute("PRAGMA foreign_keys = OFF")
        new.execute("BEGIN")
        old = _opened(path)
        counts = {table: _copy(old, new, table, number) for table, number in TABLES.items()} if old else {}
        told = _tidy(new, old)
        if old is not None:
            old.close()
        facts = {"cause": cause, "set_aside": str(aside), "salvaged": counts, **told}
        announce(new, "ledger-set-aside", facts)
        reach("rebuild.copied")
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        new.execute("PRAGMA journal_mode = DELETE")
    finally:
        new.close()
    reach("rebuild.made")
    aside.mkdir(parents=True, mode=0o750)
    for name in (path, *_companions(path)):
        if name.exists():
            name.rename(aside / name.name)
    _synced(aside)
    _synced(aside.parent)
    reach("rebuild.aside")
    _put_in_place(beside, path)
    return facts


def _put_in_place(beside: Path, path: Path) -> None:
    beside.rename(path)
    reach("rebuild.placed")
    suspect(path).unlink(missing_ok=True)
    _synced(path.parent)


def _companions(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _synced(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _opened(path: Path) -> sqlite3.Connection | None:
    """None: not even the first page reads."""
    try:
        connection = open_reader(path)
        connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError:
        return None
    return connection


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str, number: str | None) -> int:
    """Every row that reads; returns how many."""
    columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})")]
    there = set()
    with suppress(sqlite3.DatabaseError):
        there = {name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")}
    columns = [name for name in columns if name in there]
    shared = ", ".join(columns)
    if not shared:
        return 0
    marks = ", ".join("?" for _ in columns)
    insert = f"INSERT OR IGNORE INTO {table} ({shared}) VALUES ({marks})"  # noqa: S608 - our own names
    count, at = 0, columns.index(number) if number else 0
    for rows in _readable(old, f"SELECT {shared} FROM {table}", number, at):  # noqa: S608 - our own names
        new.executemany(insert, rows)
        count += len(rows)
    return count


def _readable(old: sqlite3.Connection, select: str, number: str | None, at: int) -> Iterator[list[tuple[Any, ...]]]:
    """Ranges that do not read are halved until only the rows that really do not read are left out; `at` is the number's column."""
    if number is None:
        with suppress(sqlite3.DatabaseError):
            yield old.execute(select).fetchall()
        return
    failures = 0
    ranges = [(0, _last(old, select, number))]
    while ranges:
        low, high = ranges.pop()
        try:
            rows = old.execute(f"{select} WHERE {number} > ? AND {number} <= ? ORDER BY {number} LIMIT ?", (low, high, PIECE)).fetchall()
        except sqlite3.DatabaseError:
            failures += 1
            # Where thousands do not read, a whole branch is gone: no need to knock at each row of it.
            if high - low > 8 ** (failures // COARSER_AFTER):
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]
            continue
        yield rows
        if len(rows) == PIECE:
            ranges.append((rows[-1][at], high))


def _last(old: sqlite3.Connection, select: str, number: str) -> int:
    """The highest number, or a bound that is surely above it."""
    source = select.partition(" FROM ")[2]
    with suppress(sqlite3.DatabaseError, TypeError):
        return int(old.execute(f"SELECT max({number}) FROM {source}").fetchone()[0])  # noqa: S608 - our own names
    return 2**32


def _tidy(new: sqlite3.Connection, old: sqlite3.Connection | None) -> dict[str, Any]:
    """Makes the rows agree with each other; returns what is lost."""
    new.execute("DELETE FROM message WHERE topic NOT IN (SELECT topic FROM topic)")
    new.execute("DELETE FROM result WHERE message NOT IN (SELECT message FROM message)")
    new.execute("DELETE FROM outbox WHERE message NOT IN (SELECT message FROM message)")
    new.execute(
        "INSERT INTO outbox (message, sink, state, topic, replay) SELECT message, ?, ?, topic, 1 FROM message "
        "WHERE message NOT IN (SELECT message FROM outbox)",
        (MQTT, DUE),
    )
    _results_from_bodies(new)
    # Results are pruned from the oldest on: an earlier landing without one is pruned, a later one has lost it.
    oldest = new.execute("SELECT min(landing) FROM result").fetchone()[0]
    forgotten = new.execute(
        "DELETE FROM landing WHERE how = 'judged' AND (? IS NULL OR landing > ?) AND landing NOT IN (SELECT landing FROM result)",
        (oldest, oldest),
    ).rowcount
    new.execute("DELETE FROM landing WHERE same_as IS NOT NULL AND same_as NOT IN (SELECT landing FROM landing)")
    return {"forgotten_landings": forgotten, "lost": _lost(new, old)}


def _results_from_bodies(new: sqlite3.Connection) -> None:
    """A message whose result or landing did not read: its body says enough to find it again."""
    orphans = new.execute(
        "SELECT m.message, m.sequence, m.body, r.landing FROM message m LEFT JOIN result r ON r.message = m.message "
        "WHERE m.kind = 'result' AND (r.message IS NULL OR r.landing NOT IN (SELECT landing FROM landing))"
    ).fetchall()
    for message, sequence, body, landing in orphans:
        with suppress(KeyError, TypeError, ValueError):  # a message from another age is delivered all the same
            _result_from_body(new, message, sequence, json.loads(body), landing)


def _result_from_body(new: sqlite3.Connection, message: int, sequence: int, said: dict[str, Any], landing: int | None) -> None:
    data, image, id_ = said["data"], said["data"]["image"], UUID(said["id"]).bytes
    camera, path, sha256 = data["equipment"]["camera"], image["name"].encode(), bytes.fromhex(image["sha256"] or "")
    decided, verdict, material = datetime.fromisoformat(said["time"]).timestamp(), (data["verdict"], data["reason"]), data["material"]
    if landing is None or not new.execute("SELECT 1 FROM landing WHERE landing = ?", (landing,)).fetchone():
        landing = new.execute(
            "INSERT INTO landing (landing, key, place, base, content, camera, path, size, mtime_ns, sha256, how, id, pages, verdict, "
            "reason, recorded, age) VALUES (?, 0, ?, ?, ?, ?, ?, ?, 0, ?, 'salvaged', ?, 1, ?, ?, ?, 0)",
            (
                *(landing, place_hash(camera, path), name_hash(path), content_hash(sha256) if sha256 else None, camera, path),
                *(image["bytes"], sha256 or None, id_, *verdict, decided),
            ),
        ).lastrowid
    new.execute(
        "INSERT OR IGNORE INTO result VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            *(message, id_, landing, image["page"], data["judgement"], sequence, camera, image["name"], *verdict),
            *(material["lot_id"], material["wafer_id"], data["equipment"]["recipe"], decided),
        ),
    )


def _lost(new: sqlite3.Connection, old: sqlite3.Connection | None) -> dict[str, Any]:
    """By epoch and kind: ranges of numbers that did not read, and from where on nothing can be said."""
    lost: dict[str, Any] = {}
    epoch, lasts, pruned = "unknown", dict[str, int](), True
    if old is not None:
        with suppress(sqlite3.DatabaseError, TypeError):
            epoch = str(old.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
        with suppress(sqlite3.DatabaseError):
            lasts = dict(old.execute("SELECT kind, last FROM sequence").fetchall())
        with suppress(sqlite3.DatabaseError):
            pruned = old.execute("SELECT 1 FROM meta WHERE key = 'pruned'").fetchone() is not None
    for kind in ("result", "wafer", "event"):
        there = [n for (n,) in new.execute("SELECT sequence FROM message WHERE kind = ? AND epoch = ? ORDER BY sequence", (kind, epoch))]
        if kind not in lasts:
            lost[kind] = {"epoch": epoch, "ranges": _gaps(there, there[0] if there and pruned else 1, there[-1] if there else 0)}
            lost[kind]["unknown_above"] = there[-1] if there else 0
        elif ranges := _gaps(there, there[0] if there and pruned else 1, lasts[kind]):
            lost[kind] = {"epoch": epoch, "ranges": ranges}
    return lost


def _gaps(there: list[int], first: int, last: int) -> list[list[int]]:
    gaps, expected = [], first
    for number in there:
        if number > expected:
            gaps.append([expected, number - 1])
        expected = number + 1
    if expected <= last:
        gaps.append([expected, last])
    return gaps
