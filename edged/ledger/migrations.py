"""Named migrations: each runs once, in one transaction together with the record of it."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final

from edged.errors import LedgerNewer
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


def accounts(connection: sqlite3.Connection) -> None:
    """So that damage can be told exactly: a checksum of each message, and which numbers are rightly not here."""
    connection.execute("ALTER TABLE message ADD COLUMN checksum INTEGER")
    connection.execute(
        "CREATE TABLE absent (kind TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, why TEXT NOT NULL, "
        "PRIMARY KEY (kind, epoch, first)) WITHOUT ROWID"
    )
    connection.execute("CREATE TABLE ended (epoch TEXT NOT NULL, kind TEXT NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (epoch, kind))")
    # What is missing by now was pruned, or is told by the event of an earlier rebuild.
    there = "SELECT kind, epoch, sequence, lag(sequence, 1, 0) OVER (PARTITION BY kind, epoch ORDER BY sequence) AS before FROM message"
    connection.execute(
        f"INSERT INTO absent SELECT kind, epoch, before + 1, sequence - 1, 'pruned' FROM ({there}) WHERE sequence > before + 1"  # noqa: S608 - our own words
    )
    connection.execute(
        "INSERT INTO ended SELECT epoch, kind, max(sequence) FROM message WHERE epoch <> (SELECT value FROM meta WHERE key = 'epoch') "
        "GROUP BY epoch, kind"
    )
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    connection.execute(
        "INSERT INTO absent SELECT * FROM (SELECT s.kind, ?1, 1 + coalesce((SELECT max(sequence) FROM message m WHERE m.kind = s.kind AND "
        "m.epoch = ?1), 0) AS first, s.last, 'pruned' FROM sequence s) WHERE first <= last",
        (epoch,),
    )


def late_sidecars(connection: sqlite3.Connection) -> None:
    """Landings that were judged without the sidecar that might have told who they are, found by the hash of camera and stem."""
    connection.execute(
        "CREATE TABLE awaiting (landing INTEGER PRIMARY KEY REFERENCES landing ON DELETE CASCADE, stem INTEGER NOT NULL, "
        "until INTEGER NOT NULL)"  # by the ledger's own clock
    )
    connection.execute("CREATE INDEX awaiting_stem ON awaiting (stem)")
    connection.execute("CREATE INDEX awaiting_until ON awaiting (until)")


def events_about_files(connection: sqlite3.Connection) -> None:
    """Which events tell of a file, by the hash of its bare name: a trace finds what never got a result."""
    connection.execute("CREATE TABLE about (message INTEGER PRIMARY KEY REFERENCES message ON DELETE CASCADE, base INTEGER NOT NULL)")
    connection.execute("CREATE INDEX about_base ON about (base)")


def pruned_landings(connection: sqlite3.Connection) -> None:
    """Which landings have lost a result to retention: after damage only the others are judged again."""
    connection.execute("ALTER TABLE landing ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0")
    connection.execute("UPDATE landing SET pruned = 1 WHERE how = 'judged' AND landing NOT IN (SELECT landing FROM result)")


def known_keys(connection: sqlite3.Connection) -> None:
    """Which files are known is read at each start, by the million: from an index, not from the whole table."""
    connection.execute("CREATE INDEX landing_known ON landing (key, gone)")
    connection.execute("DROP INDEX landing_key")


def baseline_under_way(connection: sqlite3.Connection) -> None:
    """What lies in a folder since before then (by its own clock) is being recorded as known; NULL: nothing is."""
    connection.execute("ALTER TABLE camera ADD COLUMN baseline_ns INTEGER")


def landing_checksums(connection: sqlite3.Connection) -> None:
    """Whether a landing is what was written, beyond what its hashes are of. Rows that are there get one with their next change."""
    connection.execute("ALTER TABLE landing ADD COLUMN checksum INTEGER")


ALL: Final[dict[str, Callable[[sqlite3.Connection], None]]] = {
    "first_tables": first_tables,
    "audit": audit,
    "camera_folders": camera_folders,
    "rejudgements": rejudgements,
    "accounts": accounts,
    "late_sidecars": late_sidecars,
    "events_about_files": events_about_files,
    "pruned_landings": pruned_landings,
    "known_keys": known_keys,
    "baseline_under_way": baseline_under_way,
    "landing_checksums": landing_checksums,
}
"""In the order in which they run. A released migration never changes; a change of the tables is a new one."""


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Brings the file to our schema. LedgerNewer: a newer edged has written it."""
    refuse_newer(connection, path)
    done = applied(connection)
    if len(done) == len(ALL):
        return
    # Only the rare run that migrates pays for importing sqlite-utils (0.2 s).
    from sqlite_utils import Database, Migrations  # noqa: PLC0415

    migrations = Migrations(SET)
    for name, change in ALL.items():
        migrations(name=name)(lambda database, change=change: _run(database.conn, change))
    migrations.apply(Database(connection))
    reach("ledger.migrated")


def refuse_newer(connection: sqlite3.Connection, path: str) -> None:
    """LedgerNewer."""
    if newer := [name for name in applied(connection) if name not in ALL]:
        raise LedgerNewer(path, newer)


def _run(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], None]) -> None:
    change(connection)
    reach("ledger.migrating")


def applied(connection: sqlite3.Connection) -> list[str]:
    """Names in the order in which they ran."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return []
    return [name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id", (SET,))]
