"""Single rows of the recording transaction."""

from __future__ import annotations

import sqlite3
import zlib

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
