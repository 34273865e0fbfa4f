"""Named migrations: each runs once, in one transaction together with the record of it."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

from edged.errors import Unavailable
from edged.failpoints import reach
from edged.ledger.schema import FIRST

SET: Final = "edged"


def first_tables(connection: sqlite3.Connection) -> None:
    for statement in re.sub("--.*", "", FIRST).split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (secrets.token_hex(6),))


def audit(connection: sqlite3.Connection) -> None:
    """Who changed what. `before` and `after` are JSON objects, or NULL."""
    connection.execute(
        "CREATE TABLE audit (audit INTEGER PRIMARY KEY, at REAL NOT NULL, age INTEGER NOT NULL, who TEXT NOT NULL, role TEXT NOT NULL, "
        "what TEXT NOT NULL, target TEXT NOT NULL, before TEXT, after TEXT)"
    )


def camera_folders(connection: sqlite3.Connection) -> None:
    """Which cameras have watched which folders, who paused a camera, and under which camera's name a landing got its id."""
    connection.execute(
        "CREATE TABLE watched (folder TEXT, camera TEXT, mount TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (folder, camera)) "
        "WITHOUT ROWID"
    )
    connection.execute("INSERT INTO watched SELECT folder, name, '', first_seen FROM camera")
    connection.execute("CREATE TABLE pause (camera TEXT PRIMARY KEY, by TEXT NOT NULL, since REAL NOT NULL) WITHOUT ROWID")
    connection.execute("ALTER TABLE landing ADD COLUMN born TEXT")  # NULL: the camera's present name


def rejudgements(connection: sqlite3.Connection) -> None:
    """Landings to be judged again. A number is allocated by its row and never again; one row at most is open for each landing.

    `why`: asked | released | late; `sidecar`: the bytes of a late one, whose kind says how to read them, until the row has ended.
    """
    connection.execute(
        "CREATE TABLE rejudgement (rejudgement INTEGER PRIMARY KEY, landing INTEGER NOT NULL REFERENCES landing ON DELETE CASCADE, "
        "judgement INTEGER NOT NULL, why TEXT NOT NULL, recipe TEXT, sidecar_kind TEXT, sidecar BLOB, who TEXT NOT NULL, "
        "asked REAL NOT NULL, ended REAL, outcome TEXT)"
    )
    connection.execute("CREATE UNIQUE INDEX rejudgement_number ON rejudgement (landing, judgement)")
    connection.execute("CREATE UNIQUE INDEX rejudgement_open ON rejudgement (landing) WHERE ended IS NULL")
    connection.execute("CREATE INDEX landing_same ON landing (same_as) WHERE same_as IS NOT NULL")


ALL: Final[dict[str, Callable[[sqlite3.Connection], None]]] = {
    "first_tables": first_tables,
    "audit": audit,
    "camera_folders": camera_folders,
    "rejudgements": rejudgements,
}
"""In the order in which they run. A released migration never changes; a change of the tables is a new one."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings the file to our schema. Unavailable: a newer edged has written it."""
    done = applied(connection)
    if newer := [name for name in done if name not in ALL]:
        raise Unavailable(
            f"the ledger {path}",
            f"a newer edged has changed it ({', '.join(newer)})",
            "Start the newer edged again, or restore the ledger's backup from before the upgrade.",
            lasting=True,
        )
    if len(done) == len(ALL):
        return
    # Only the rare run that migrates pays for importing sqlite-utils (0.2 s).
    from sqlite_utils import Database, Migrations  # noqa: PLC0415

    migrations = Migrations(SET)
    for name, change in ALL.items():
        migrations(name=name)(lambda database, change=change: _run(database.conn, change))
    migrations.apply(Database(connection))
    reach("ledger.migrated")


def _run(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], None]) -> None:
    change(connection)
    reach("ledger.migrating")


def applied(connection: sqlite3.Connection) -> list[str]:
    """Names in the order in which they ran."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return []
    return [name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", (SET,))]
