"""How the ledger's file is opened, and what SQLite's error codes mean for us."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger.accounts import damaged_messages
from edged.ledger.mark import Reached
from edged.ledger.migrations import applied, migrate, refuse_newer
from edged.ledger.place import PASSING
from edged.ledger.rows import seal_landings

FILE: Final = "ledger.db"
CHECK_BYTES: Final = 64 * 1024**2
"""A larger file is not read through at each start; damage then shows when a page is used."""

WRITER_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # NORMAL loses acknowledged rows at a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 0",  # the writer checkpoints, between commits
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA mmap_size = 0",  # an I/O error must come as an error, not as SIGBUS
    "PRAGMA cache_size = -32768",
    "PRAGMA temp_store = MEMORY",
)

DAMAGE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises; the second when SQLite quotes damaged text."""
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DISK = {
    sqlite3.SQLITE_FULL: ("the disk is full", "Free space on the state directory's disk; nothing else needs to be done."),
    sqlite3.SQLITE_IOERR: ("the disk gives input/output errors", "Look at the disk (dmesg, smartctl); images wait in their folders."),
    sqlite3.SQLITE_READONLY: ("the file cannot be written", "Remount the disk writable, and let the daemon's user write the ledger."),
    sqlite3.SQLITE_CANTOPEN: ("the file cannot be opened", "See that the state directory is there and belongs to the daemon's user."),
    sqlite3.SQLITE_BUSY: ("another program keeps it locked", "End the program that has the ledger open for writing."),
    sqlite3.SQLITE_NOMEM: ("there is no memory left", "Give the daemon more memory."),
    sqlite3.SQLITE_PROTOCOL: ("its lock file misbehaves", "See that the state directory lies on a local disk."),
}

_PERMIT: Final = "Let the daemon's user write the state directory."
_OPENING = {
    errno.EROFS: "See why the disk is read-only (dmesg), and mount it writable; images wait in their folders.",
    errno.ENOSPC: "Free space on the state directory's disk; nothing else needs to be done.",
    errno.EDQUOT: "Raise the quota of the daemon's user, or free some of it; nothing else needs to be done.",
    errno.EIO: "Look at the disk (dmesg, smartctl); images wait in their folders.",
    errno.EMFILE: "Raise LimitNOFILE in the daemon's unit.",
}


def check(path: Path, reached: Reached | None = None) -> None:
    """LedgerCorrupt, also when it lacks what it has `reached`: with the file and its log left as they are, because a connection that may
    write would already mix them. LedgerNewer."""
    if not path.exists() or path.stat().st_size == 0:
        if reached is not None and any(reached.lasts.values()):
            raise LedgerCorrupt(str(path), "it is empty" if path.exists() else "it is gone")
        return
    try:
        _roll_back(path)
        connection = open_reader(path)
        try:
            refuse_newer(connection, str(path))
            if path.stat().st_size <= CHECK_BYTES:
                (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
                if said != "ok":
                    raise LedgerCorrupt(str(path), str(said))
                if "accounts" in applied(connection) and (row := next(damaged_messages(connection), None)) is not None:
                    raise LedgerCorrupt(str(path), f"message {row} is not what was written: its checksum differs")
            if reached is not None and (lacking := reached.lacking(connection)):
                raise LedgerCorrupt(str(path), lacking)
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise translated(error, path) or error from None


def _roll_back(path: Path) -> None:
    """A file outside the log's mode (new from a rebuild, or a backup put back) whose very first change was cut: SQLite undoes it, but not
    for a reader."""
    journal = path.with_name(path.name + "-journal")
    if not journal.exists() or journal.stat().st_size == 0:
        return
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()


def open_writer(path: Path) -> sqlite3.Connection:
    """The one write connection. LedgerCorrupt, or Unavailable."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unavailable(
            "the ledger", error.strerror or str(error), _OPENING.get(error.errno or 0, _PERMIT), lasting=error.errno not in PASSING
        ) from None
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0, cached_statements=256)
    try:
        if path.stat().st_size == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for pragma in WRITER_PRAGMAS:
            connection.execute(pragma)
        migrate(connection, str(path))
        seal_landings(connection)
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, path) or error from None
    except (LedgerCorrupt, Unavailable):
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


def translated(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> LedgerCorrupt | Unavailable | None:
    """What the disk did to us, as an error of ours; None for a mistake in our SQL."""
    if isinstance(error, UnicodeDecodeError):
        return LedgerCorrupt(str(path), "its own description of its tables does not read")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Python's own word, not SQLite's: every text that we write is valid.
        return LedgerCorrupt(str(path), str(error)[:200]) if "Could not decode to UTF-8" in str(error) else None
    primary = code & 0xFF
    if primary in _CORRUPT:
        return LedgerCorrupt(str(path), str(error))
    if primary in _DISK:
        cause, hint = _DISK[primary]
        return Unavailable("the ledger", f"{cause} ({error})", hint)
    return None


def sqlite_version() -> str:
    return sqlite3.sqlite_version
