"""Single rows of the recording transaction."""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any, Final

from edged.ledger.identity import content_hash, landing_hash, name_hash, place_hash
from edged.ledger.schema import PENDING
from edged.nouns import PageResult


def insert_landing(  # noqa: PLR0917 - a row
    connection: sqlite3.Connection,
    page: PageResult,
    sha256: bytes | None,
    how: str,
    same_as: int | None,
    id_: bytes | None,
    pages: int,
    verdict: str | None,
    reason: str | None,
    now: float,
    age: int,
) -> int:
    landing = page.landing
    key = landing_hash(landing.camera, landing.path, landing.size, landing.mtime_ns)
    row = connection.execute(
        "INSERT INTO landing (key, place, base, content, camera, path, size, mtime_ns, sha256, how, same_as, id, pages, verdict, reason, "
        "detected, recorded, age, disposal) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            *(key, place_hash(landing.camera, landing.path), name_hash(landing.path), content_hash(sha256) if sha256 else None),
            *(landing.camera, landing.path, landing.size, stored_ns(landing.mtime_ns), sha256, how, same_as, id_, pages, verdict, reason),
            *(landing.detected.timestamp(), now, age, PENDING),
        ),
    ).lastrowid
    assert row is not None
    return row


def stored_ns(time_ns: int) -> int | bytes:
    """A time as SQLite can hold it: its integers end in the year 2262, file systems do not. Later ones are kept as decimal digits."""
    return time_ns if -(2**63) <= time_ns < 2**63 else b"%d" % time_ns


def read_ns(stored: int | bytes) -> int:
    return int(stored)


def text(text: str | None) -> str | None:
    """What a sidecar says need not be valid Unicode; SQLite wants it to be."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def next_number(connection: sqlite3.Connection, kind: str) -> int:
    """The next number of this kind."""
    ((sequence,),) = connection.execute("UPDATE sequence SET last = last + 1 WHERE kind = ? RETURNING last", (kind,)).fetchall()
    return int(sequence)


def topic_of(connection: sqlite3.Connection, name: str) -> tuple[int, bool]:
    """The topic's number, and whether its messages are held."""
    found = connection.execute("SELECT topic, held_since FROM topic WHERE name = ?", (name,)).fetchone()
    if found is None:
        row = connection.execute("INSERT INTO topic (name) VALUES (?)", (name,)).lastrowid
        assert row is not None
        return row, False
    return int(found[0]), found[1] is not None


def checksum(kind: str, epoch: str, sequence: int, id_: str, topic: str, properties: str, body: bytes) -> int:
    """SQLite notices a damaged page, not a damaged byte of what we store."""
    return zlib.crc32(body, zlib.crc32(f"{kind}\0{epoch}\0{sequence}\0{id_}\0{topic}\0{properties}\0".encode()))


_SEALED: Final = (
    *("landing", "key", "place", "base", "content", "camera", "path", "size", "mtime_ns", "sha256", "how", "same_as", "id", "pages"),
    *("verdict", "reason", "detected", "recorded", "age", "gone", "gone_by", "disposal", "moved_to", "born", "pruned"),
)
"""Every column of a landing but its checksum; the order is part of the checksum."""


def sealed(row: str) -> str:
    """These columns of `row` in SQL; text as bytes, because damaged text would not decode."""
    return ", ".join(f"CASE typeof({row}.{name}) WHEN 'text' THEN CAST({row}.{name} AS BLOB) ELSE {row}.{name} END" for name in _SEALED)


def landing_checksum(*values: Any) -> int:
    """`values` as `sealed` gives them. What a landing says of itself decides whether its image is judged again."""
    return zlib.crc32(repr(values).encode())


_RESEAL: Final = f"BEGIN UPDATE landing SET checksum = landing_checksum({sealed('new')}) WHERE landing = new.landing; END"  # noqa: S608 - our own names


def seal_landings(connection: sqlite3.Connection) -> None:
    """Each change through this connection brings the checksum with it, but never makes a damaged row look whole. Other connections read
    checksums, and have no trigger in their way."""
    connection.create_function("landing_checksum", len(_SEALED), landing_checksum, deterministic=True)
    connection.execute(f"CREATE TEMP TRIGGER landing_added AFTER INSERT ON main.landing WHEN new.checksum IS NULL {_RESEAL}")
    connection.execute(
        f"CREATE TEMP TRIGGER landing_changed AFTER UPDATE OF {', '.join(_SEALED)} ON main.landing "
        f"WHEN old.checksum IS NULL OR old.checksum = landing_checksum({sealed('old')}) {_RESEAL}"
    )
