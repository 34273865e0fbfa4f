"""What is known of files: recorded, baselined, vanished, disposed of. Functions of a connection.

Invariants
- A file that is gone keeps its row: dropped again, it is known by its identity.
- What became of a judged file is told once; a disposal that is not told yet is done again after a crash. Until then it stays pending,
  wherever the file is, and a file that is gone counts as taken by us: else its content under another name would count as renamed, and
  get no verdict.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from edged.ledger.identity import landing_hash, name_hash, place_hash
from edged.ledger.rows import read_ns, stored_ns
from edged.ledger.schema import PENDING

ROUND: Final = 256
GONE_BY: Final = {"moved": "us", "deleted": "us", "gone": "us", "replaced": "replaced"}
"""Outcomes of a disposal after which the judged file no longer lies at its place."""

Disposable = tuple[bytes, int, int, str, str, str, str]
"""(path, size, mtime_ns, sha256, id, verdict, reason) of a judged file"""


def first_start(connection: sqlite3.Connection, camera: str, folder: str, baseline_ns: int | None, now: float) -> bool:
    """Said once: a second answer of yes would take what landed meanwhile for old."""
    if connection.execute("SELECT 1 FROM camera WHERE name = ?", (camera,)).fetchone():
        return False
    first = connection.execute("SELECT 1 FROM landing WHERE camera = ? LIMIT 1", (camera,)).fetchone() is None
    statement = "INSERT INTO camera (name, folder, first_seen, baseline_ns) VALUES (?, ?, ?, ?)"
    connection.execute(statement, (camera, folder, now, baseline_ns if first else None))
    return first


def baseline_since(connection: sqlite3.Connection, camera: str, folder: str) -> int | None:
    row = connection.execute("SELECT baseline_ns FROM camera WHERE name = ? AND folder = ?", (camera, folder)).fetchone()
    return None if row is None else row[0]


def baseline(connection: sqlite3.Connection, camera: str, seen: Sequence[tuple[bytes, int, int]], now: float, age: int) -> list[int]:
    """Returns the keys of what is now known."""
    keys = [landing_hash(camera, *each) for each in seen]
    connection.executemany(
        "INSERT INTO landing (key, place, base, camera, path, size, mtime_ns, how, recorded, age) VALUES (?,?,?,?,?,?,?,'baseline',?,?)",
        [
            (key, place_hash(camera, path), name_hash(path), camera, path, size, stored_ns(mtime_ns), now, age)
            for key, (path, size, mtime_ns) in zip(keys, seen, strict=True)
        ],
    )
    connection.execute(
        "UPDATE camera SET baselined = 1, files = coalesce(files, 0) + ? WHERE name = ?",
        (len(seen), camera),
    )
    return keys


def vanished(connection: sqlite3.Connection, camera: str, path: bytes, now: float) -> list[int]:
    """Returns the keys that are no longer there."""
    gone = connection.execute(
        "UPDATE landing SET gone = ?, gone_by = CASE disposal WHEN 'pending' THEN 'us' ELSE 'vanished' END "
        "WHERE place = ? AND camera = ? AND path = ? AND gone IS NULL RETURNING key",
        (now, place_hash(camera, path), camera, path),
    ).fetchall()
    return [int(key) for (key,) in gone]


def pending_disposal(connection: sqlite3.Connection, camera: str) -> list[Disposable]:
    """The oldest `ROUND` of them."""
    rows = connection.execute(
        "SELECT path, size, mtime_ns, sha256, id, verdict, reason FROM landing "
        "WHERE camera = ? AND disposal = 'pending' AND id IS NOT NULL ORDER BY landing LIMIT ?",
        (camera, ROUND),
    )
    return [
        (path, size, read_ns(mtime), (sha or b"").hex(), str(UUID(bytes=id_)), verdict or "", reason or "")
        for path, size, mtime, sha, id_, verdict, reason in rows
    ]


def disposed(
    connection: sqlite3.Connection, camera: str, path: bytes, id_: str, outcome: str, new_path: str | None, now: float
) -> list[int]:
    """Returns the keys of files that no longer lie there. One that was kept is there, unless a scan has missed it: not through us."""
    gone_by = GONE_BY.get(outcome)
    away = "gone = ?, gone_by = ?" if gone_by else "gone_by = CASE WHEN gone IS NULL THEN NULL ELSE 'vanished' END"
    rows = connection.execute(
        f"UPDATE landing SET disposal = ?, moved_to = ?, {away} "  # noqa: S608 - our words only
        "WHERE place = ? AND camera = ? AND path = ? AND id = ? AND disposal = ? RETURNING key",
        (outcome, new_path, *((now, gone_by) if gone_by else ()), place_hash(camera, path), camera, path, UUID(id_).bytes, PENDING),
    ).fetchall()
    return [int(key) for (key,) in rows] if gone_by else []
