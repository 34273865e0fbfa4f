"""How far the ledger has come, written beside it: a log that is cut off or deleted, or an older copy put in its place, reads well and
lacks rows that were recorded. Their numbers would be given away a second time.

Invariants
- It is written after a commit, never before: it is never ahead of what was recorded.
- After a kill it is exact; after a power cut it may be some seconds behind, and then tells less, never something false.
- One that does not read says nothing; an error in writing it costs nobody anything.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Reached:
    """`lasts`: kind -> the last number given away in this epoch. `whole`: none of them pruned or lost by then, no epoch before."""

    epoch: str
    lasts: dict[str, int]
    whole: bool

    def lacking(self, connection: sqlite3.Connection) -> str | None:
        """What the ledger's file lacks, as a clause; None when it lacks nothing."""
        try:
            found = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
            there = dict(connection.execute("SELECT kind, last FROM sequence").fetchall())
        except sqlite3.OperationalError:
            return "it holds no ledger"
        if found is None or found[0] != self.epoch:
            return f"it is not the file that was used last (that had epoch {self.epoch}, this has {found[0] if found else 'none'})"
        short = [f"{kind} {there.get(kind, 0)} of {last}" for kind, last in self.lasts.items() if there.get(kind, 0) < last]
        return f"its newest rows are missing (it ends at {', '.join(short)})" if short else None


_REACHED: Final = (
    "SELECT value, (SELECT json_group_object(kind, last) FROM sequence), "
    "NOT EXISTS (SELECT 1 FROM absent) AND NOT EXISTS (SELECT 1 FROM ended) FROM meta WHERE key = 'epoch'"
)
"""One look after each commit."""


class Mark:
    """`{ledger}.mark`. For one thread at a time."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_suffix(".mark")
        self._descriptor: int | None = None
        self._written = self._synced = b""

    def read(self) -> Reached | None:
        """None: there is none, or it says nothing."""
        try:
            text, _, check = self.path.read_bytes().rstrip().rpartition(b" ")
            if int(check) != zlib.crc32(text):
                return None
            said = json.loads(text)
            return Reached(said["epoch"], {str(kind): int(last) for kind, last in said["last"].items()}, bool(said["whole"]))
        except (OSError, ValueError, KeyError):
            return None

    def note(self, connection: sqlite3.Connection) -> None:
        """After a commit."""
        epoch, lasts, whole = connection.execute(_REACHED).fetchone()
        text = json.dumps({"epoch": epoch, "last": json.loads(lasts), "whole": bool(whole)}).encode()
        if text == self._written:
            return
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, (text + b" %d" % zlib.crc32(text)).ljust(BYTES - 1) + b"\n", 0)
            self._written = text

    def sync(self) -> None:
        """Now and then, so that a power cut costs little of it."""
        if self._descriptor is not None and self._synced != self._written:
            with suppress(OSError):
                os.fdatasync(self._descriptor)
                self._synced = self._written

    def close(self) -> None:
        self.sync()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
