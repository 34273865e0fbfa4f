"""When the write-ahead log is written back into the ledger's file.

Invariants
- Between commits, never inside one. A passive checkpoint waits for no reader; only a log far too long is cut, if no reader holds it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from edged.failpoints import reach

CHECKPOINT_PAGES: Final = 2000
IDLE_PAGES: Final = 200
"""While nobody writes: what is written back by then needs no room in the ledger's file when the disk is full."""
PAGES_A_GROUP: Final = 12
CHANGES_A_PAGE: Final = 4
"""SQLite does not tell how long the log is without syncing it, so its growth is estimated."""
CUT_BYTES: Final = 64 * 1024**2


class Wal:
    """`{ledger}-wal`. For the writer's thread."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(ledger.name + "-wal")
        self._pages = 0.0
        self._changes = 0

    def opened(self) -> None:
        """With a new connection its changes are counted anew."""
        self._changes = 0

    def grew(self, connection: sqlite3.Connection) -> None:
        """A group is committed."""
        self._pages += PAGES_A_GROUP + (connection.total_changes - self._changes) / CHANGES_A_PAGE
        self._changes = connection.total_changes

    def write_back(self, connection: sqlite3.Connection, *, idle: bool = False) -> None:
        """When it has grown enough. sqlite3.Error."""
        if self._pages < (IDLE_PAGES if idle else CHECKPOINT_PAGES):
            return
        self._pages = 0.0
        reach("ledger.checkpoint")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        reach("ledger.checkpointed")
        if self._bytes() > CUT_BYTES:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            connection.execute("PRAGMA busy_timeout = 5000")

    def _bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
