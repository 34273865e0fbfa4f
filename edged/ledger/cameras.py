"""What the ledger knows of cameras: which folders each has watched, who paused it, and how its files come under another name.

Invariants
- A folder is known as long as a camera that watched it has recorded files. A camera that was never let in to it learns their name.
- A rename moves what was seen of files, in one transaction, so that none is judged again. What the plant was told keeps the old name, and
  so do ids: `born` remembers under which name a landing got its id.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger.connection import FILE, check, open_writer, translated
from edged.ledger.identity import landing_hash, place_hash, stem_hash
from edged.ledger.place import lock, prepare
from edged.ledger.reading import Readers
from edged.ledger.rows import read_ns
from edged.ledger.writer import Writer
from edged.nouns import Pause, Standing


class Cameras:
    """The door for intake. Every call may raise Unavailable."""

    def __init__(self, writer: Writer, readers: Readers, wall: Callable[[], float] = time.time) -> None:
        self._writer, self._readers, self._wall = writer, readers, wall

    async def standing(self, camera: str, watching: Mapping[str, str]) -> Standing:
        """`watching`: the folder of every configured camera."""
        return await self._readers.run(lambda c: _standing(c, camera, watching))

    async def let_in(self, camera: str, folder: str, mount: str) -> None:
        """From now on the folder is this camera's, on a file system mounted at `mount`."""
        statement = "INSERT OR REPLACE INTO watched (folder, camera, mount, since) VALUES (?,?,?,?)"
        await self._writer.submit(lambda c: c.execute(statement, (folder, camera, mount, self._wall())).rowcount)

    async def pause(self, camera: str, by: str) -> Pause:
        """Who paused it first stays named."""
        return await self._writer.submit(lambda c: _pause(c, camera, by, self._wall()))

    async def resume(self, camera: str) -> None:
        await self._writer.submit(lambda c: c.execute("DELETE FROM pause WHERE camera = ?", (camera,)).rowcount)


def rename(state_dir: Path, old: str, new: str) -> int:
    """While no daemon runs: what is recorded of `old` is `new`'s. Returns how many landings moved.

    Unavailable: a daemon uses the ledger, there is none, or it cannot be written; LookupError: nothing is known of `old`; ValueError: `new`
    has recorded files of its own, which nobody could tell apart afterwards.
    """
    prepare(state_dir)
    descriptor = lock(state_dir)
    path = state_dir / FILE
    try:
        if not path.exists():
            raise Unavailable(f"the ledger {path}", "there is none", "Name the configuration whose daemon has watched the folder.")
        try:
            check(path)
        except LedgerCorrupt as error:
            raise Unavailable(f"the ledger {path}", error.cause, "Start the daemon, which rebuilds it, and stop it again.") from None
        connection = open_writer(path)
        try:
            return _renamed(connection, old, new)
        except sqlite3.Error as error:
            raise translated(error, path) or error from None
        finally:
            connection.close()
    finally:
        os.close(descriptor)


def _standing(connection: sqlite3.Connection, camera: str, watching: Mapping[str, str]) -> Standing:
    folder = watching[camera]
    paused = connection.execute("SELECT by, since FROM pause WHERE camera = ?", (camera,)).fetchone()
    pause = Pause(paused[0], datetime.fromtimestamp(paused[1], UTC)) if paused else None
    let_in = connection.execute("SELECT mount FROM watched WHERE folder = ? AND camera = ?", (folder, camera)).fetchone()
    if let_in is not None:
        return Standing(None, let_in[0], pause)
    others = connection.execute("SELECT camera FROM watched WHERE folder = ? AND camera <> ? ORDER BY since DESC", (folder, camera))
    for (other,) in others.fetchall():
        if watching.get(other) != folder and _has_landings(connection, other):
            return Standing(other, "", pause)
    return Standing(None, "", pause)


def _has_landings(connection: sqlite3.Connection, camera: str) -> bool:
    return connection.execute("SELECT 1 FROM landing WHERE camera = ? LIMIT 1", (camera,)).fetchone() is not None


def _pause(connection: sqlite3.Connection, camera: str, by: str, now: float) -> Pause:
    connection.execute("INSERT OR IGNORE INTO pause (camera, by, since) VALUES (?,?,?)", (camera, by, now))
    who, since = connection.execute("SELECT by, since FROM pause WHERE camera = ?", (camera,)).fetchone()
    return Pause(who, datetime.fromtimestamp(since, UTC))


def _renamed(connection: sqlite3.Connection, old: str, new: str) -> int:
    connection.create_function("key_of", 3, lambda path, size, ns: landing_hash(new, path, size, read_ns(ns)), deterministic=True)
    connection.create_function("place_of", 1, lambda path: place_hash(new, path), deterministic=True)
    connection.create_function("stem_of", 1, lambda path: stem_hash(new, path), deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not connection.execute("SELECT 1 FROM camera WHERE name = ?", (old,)).fetchone() and not _has_landings(connection, old):
            raise LookupError(old)
        if _has_landings(connection, new):
            raise ValueError(new)
        moved = connection.execute(
            "UPDATE landing SET camera = ?1, born = coalesce(born, camera), key = key_of(path, size, mtime_ns), place = place_of(path) "
            "WHERE camera = ?2",
            (new, old),
        ).rowcount
        connection.execute(
            "UPDATE awaiting SET stem = stem_of(l.path) FROM landing l WHERE l.landing = awaiting.landing AND l.camera = ?", (new,)
        )
        connection.execute("DELETE FROM camera WHERE name = ?", (new,))
        connection.execute("UPDATE camera SET name = ? WHERE name = ?", (new, old))
        connection.execute("UPDATE OR REPLACE watched SET camera = ? WHERE camera = ?", (new, old))
        connection.execute("UPDATE OR REPLACE pause SET camera = ? WHERE camera = ?", (new, old))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return moved
