"""What reads of a damaged ledger, carried into a new one; what is lost, counted.

Invariants
- Salvaged messages keep body, epoch and sequence. One whose delivery is not known is delivered once more.
- A row that reads and is not what was written (its checksum, its hashes, its own body disagree) does not count as read.
- A landing whose result is lost is forgotten, so that its file, if it is still there, is judged again: under the same id.
- Every number of every epoch is here, is rightly absent, or is said to be lost; or it is said from where on nothing can be said.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from edged.ledger.accounts import damaged_landings, damaged_messages, gaps, numbers_there
from edged.ledger.connection import DAMAGE, open_reader
from edged.ledger.identity import content_hash, name_hash, place_hash
from edged.ledger.mark import Reached
from edged.ledger.schema import DELIVERED, DUE, KINDS, MQTT, PARKED, SINKS

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
    "awaiting": "landing",
    "about": "message",
    "absent": None,
    "ended": None,
}
"""Table -> the number by which it is read in ranges; parents before children."""


def salvage(path: Path, new: sqlite3.Connection, reached: Reached | None) -> dict[str, Any]:
    """Fills `new`, an empty ledger in a transaction of its own; returns what is carried over, forgotten and lost."""
    old = _opened(path)
    whole = {table for table, number in TABLES.items() if old is not None and _copy(old, new, table, number)}
    forgotten = _tidy(new, told_pruned=old is not None and "pruned" in _columns(old, "landing"))
    whole_by_mark = reached is not None and reached.whole
    lost = _lost(new, old, reached, accounted=whole_by_mark or {"absent", "ended"} <= whole)
    if old is not None:
        old.close()
    salvaged = {table: new.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}  # noqa: S608 - our own names
    return {"salvaged": salvaged, "forgotten_landings": forgotten, **lost}


def _opened(path: Path) -> sqlite3.Connection | None:
    """None: not even the first page reads."""
    if not path.exists():
        return None
    try:
        connection = open_reader(path)
        connection.execute("SELECT name FROM sqlite_master").fetchall()
    except DAMAGE:
        return None
    return connection


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str, number: str | None) -> bool:
    """Every row that reads; whether all of them did, as far as can be told."""
    columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})")]
    there = _columns(old, table)
    columns = [name for name in columns if name in there]
    shared = ", ".join(columns)
    if not shared:
        return False
    marks = ", ".join("?" for _ in columns)
    insert = f"INSERT OR IGNORE INTO {table} ({shared}) VALUES ({marks})"  # noqa: S608 - our own names
    pieces = 0
    for rows in _readable(old, f"SELECT {shared} FROM {table}", number, columns.index(number) if number else 0):  # noqa: S608 - our own names
        new.executemany(insert, rows)
        pieces += 1
    return pieces > 0


def _columns(old: sqlite3.Connection, table: str) -> set[str]:
    with suppress(*DAMAGE):
        return {name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")}
    return set()


def _readable(old: sqlite3.Connection, select: str, number: str | None, at: int) -> Iterator[list[tuple[Any, ...]]]:
    """Ranges that do not read are halved until only the rows that really do not read are left out; `at` is the number's column."""
    if number is None:
        with suppress(*DAMAGE):
            yield old.execute(select).fetchall()
        return
    failures = 0
    ranges = [(0, _last(old, select, number))]
    while ranges:
        low, high = ranges.pop()
        try:
            if high - low == 1:  # looking for more than this very row would touch its neighbours, which may not read
                rows = old.execute(f"{select} WHERE {number} = ?", (high,)).fetchall()
            else:
                where = f"WHERE {number} > ? AND {number} <= ? ORDER BY {number} LIMIT ?"
                rows = old.execute(f"{select} {where}", (low, high, PIECE)).fetchall()
        except DAMAGE:
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
    with suppress(*DAMAGE, TypeError):
        return int(old.execute(f"SELECT max({number}) FROM {source}").fetchone()[0])  # noqa: S608 - our own names
    return 2**32


def _tidy(new: sqlite3.Connection, *, told_pruned: bool) -> int:
    """Makes the rows agree with each other; returns how many landings are forgotten. `told_pruned`: landings say whether they are."""
    new.execute("DELETE FROM message WHERE topic NOT IN (SELECT topic FROM topic)")
    _delete(new, "message", list(damaged_messages(new)))
    _delete(new, "landing", list(damaged_landings(new)))  # before anything changes one
    _outbox(new)
    _results(new)
    if not told_pruned:
        # By an edged that did not tell: results are pruned from the oldest on, so an earlier landing without one is pruned.
        new.execute("UPDATE landing SET pruned = 1 WHERE landing < (SELECT min(landing) FROM result)")
    forgotten = new.execute(
        "DELETE FROM landing WHERE how = 'judged' AND pruned = 0 AND landing NOT IN (SELECT landing FROM result)"
    ).rowcount
    new.execute("DELETE FROM landing WHERE same_as IS NOT NULL AND same_as NOT IN (SELECT landing FROM landing)")
    new.execute("DELETE FROM rejudgement WHERE landing NOT IN (SELECT landing FROM landing)")
    new.execute("DELETE FROM about WHERE message NOT IN (SELECT message FROM message)")
    new.execute("DELETE FROM awaiting WHERE landing NOT IN (SELECT landing FROM landing)")
    return forgotten


def _delete(new: sqlite3.Connection, table: str, rows: Iterable[int]) -> None:
    new.executemany(f"DELETE FROM {table} WHERE {table} = ?", ((row,) for row in rows))  # noqa: S608 - our own names


def _outbox(new: sqlite3.Connection) -> None:
    new.execute("DELETE FROM outbox WHERE message NOT IN (SELECT message FROM message)")
    new.execute(f"DELETE FROM outbox WHERE sink NOT IN ({', '.join('?' for _ in SINKS)})", SINKS)  # noqa: S608 - only marks
    new.execute(
        "INSERT INTO outbox (message, sink, state, topic, replay) SELECT message, ?, ?, topic, 1 FROM message "
        "WHERE message NOT IN (SELECT message FROM outbox WHERE sink = ?)",
        (MQTT, DUE, MQTT),
    )
    new.execute("UPDATE outbox SET topic = (SELECT topic FROM message m WHERE m.message = outbox.message)")
    new.execute(
        "UPDATE outbox SET state = ?, replay = 1 WHERE typeof(state) <> 'integer' OR state NOT BETWEEN ? AND ?", (DUE, DUE, DELIVERED)
    )
    assert DUE < PARKED < DELIVERED


def _results(new: sqlite3.Connection) -> None:
    """A result is what its message's body says, else it is made again from it."""
    new.execute("DELETE FROM result WHERE message NOT IN (SELECT message FROM message WHERE kind = 'result')")
    new.execute(f"DELETE FROM result WHERE message IN ({CONTRADICTED})")  # noqa: S608 - our own words
    _results_from_bodies(new)
    first = "SELECT id FROM result r WHERE r.landing = landing.landing AND page = 0 AND judgement = 0"
    new.execute(f"UPDATE landing SET id = ({first}) WHERE how = 'judged' AND id IS NOT ({first}) AND EXISTS ({first})")  # noqa: S608 - our own words


CONTRADICTED: Final = (
    "SELECT message FROM (SELECT r.*, m.id AS told, CAST(m.body AS TEXT) AS body, m.sequence AS number, l.size, l.how, l.id AS landed, "
    "coalesce(lower(hex(l.sha256)), '') AS content FROM result r JOIN message m ON m.message = r.message "
    "LEFT JOIN landing l ON l.landing = r.landing) "
    "WHERE NOT json_valid(body) OR lower(hex(id)) <> replace(told, '-', '') OR sequence <> number "
    "OR json_extract(body, '$.data.verdict') IS NOT verdict OR json_extract(body, '$.data.image.page') IS NOT page "
    "OR json_extract(body, '$.data.judgement') IS NOT judgement "
    "OR (size IS NOT NULL AND (json_extract(body, '$.data.image.bytes') IS NOT size "
    "OR json_extract(body, '$.data.image.sha256') IS NOT content)) "
    "OR (how = 'judged' AND page = 0 AND judgement = 0 AND landed IS NOT id)"
)
"""Results that are not what was told; a camera may have been renamed since."""


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
    if landing is None:
        found = new.execute(
            "SELECT landing FROM landing WHERE place = ? AND size = ? AND sha256 IS ? AND how IN ('judged', 'salvaged') "
            "ORDER BY landing DESC",
            (place_hash(camera, path), image["bytes"], sha256 or None),
        ).fetchone()
        landing = found[0] if found else None
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


def _lost(new: sqlite3.Connection, old: sqlite3.Connection | None, reached: Reached | None, *, accounted: bool) -> dict[str, Any]:
    """By kind: ranges of numbers of the epoch that ends now that did not read, and beyond which nothing can be said; the same of
    earlier epochs. `accounted`: what is rightly absent is known. All of it is accounted for in the new file."""
    epoch, lasts, pruned = _told(old, reached)
    ended = {(ended, kind): last for ended, kind, last in new.execute("SELECT epoch, kind, last FROM ended").fetchall()}
    lost: dict[str, Any] = {}
    former: list[dict[str, Any]] = []
    count, exact = 0, accounted
    for of in sorted({*ended, *((epoch, kind) for kind in KINDS)}):
        kind, last = of[1], ended.get(of, lasts.get(of[1]) if of[0] == epoch else None)
        there, absent = numbers_there(new, *of)
        low = there[0][0] if there and pruned and not accounted else 1
        high = last if last is not None else (there[-1][1] if there else 0)
        ranges = gaps(sorted(there + absent), low, high)
        count, exact = count + sum(to - at + 1 for at, to in ranges), exact and last is not None
        new.executemany("INSERT OR REPLACE INTO absent VALUES (?, ?, ?, ?, 'lost')", [(kind, of[0], *each) for each in ranges])
        new.execute("INSERT OR REPLACE INTO ended VALUES (?, ?, ?)", (*of, high))
        said = {
            "epoch": of[0],
            "ranges": ranges,
            **({"unknown_above": high} if last is None else {}),
            **({"unknown_below": low} if low > 1 else {}),
        }
        if len(said) > 2 or ranges:
            if of[0] == epoch:
                lost[kind] = said
            else:
                former.append({"kind": kind, **said})
    return {"lost": lost, "lost_messages": count if exact else None, **({"lost_of_earlier_epochs": former} if former else {})}


def _told(old: sqlite3.Connection | None, reached: Reached | None) -> tuple[str, dict[str, int], bool]:
    """The epoch that ends now, its last numbers as far as anybody knows them, and whether rows were pruned without an account."""
    epoch, lasts, pruned = "", dict[str, int](), True
    if old is not None:
        with suppress(*DAMAGE, TypeError):
            epoch = str(old.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
        with suppress(*DAMAGE):
            lasts = {kind: int(last) for kind, last in old.execute("SELECT kind, last FROM sequence").fetchall() if kind in KINDS}
        with suppress(*DAMAGE):
            pruned = old.execute("SELECT 1 FROM meta WHERE key = 'pruned'").fetchone() is not None
    if reached is not None and epoch in ("", reached.epoch):
        epoch = reached.epoch
        lasts = {kind: max(lasts.get(kind, 0), reached.lasts.get(kind, 0)) for kind in {*lasts, *reached.lasts}}
    return epoch or "unknown", lasts, pruned
