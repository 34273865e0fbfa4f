"""A ledger that does not read, or lacks rows: set aside whole, and what reads of it carried into a new one, with a new epoch.

Invariants
- The damaged file and its log are moved, never changed and never deleted.
- The new file is made beside it, and has the name `ledger.rebuilt.db` only when it is whole and durable. A crash or a power cut at any
  step begins anew, or ends what was ended: without a ledger in its place, the whole new one goes there.
- Every rename is durable before the next step: both directories are synced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edged.errors import LedgerCorrupt
from edged.failpoints import reach
from edged.ledger.connection import check, open_writer
from edged.ledger.mark import Mark, Reached
from edged.ledger.place import synced
from edged.ledger.salvage import salvage

Announce = Callable[[sqlite3.Connection, str, dict[str, Any]], object]


def suspect(path: Path) -> Path:
    """The mark that a page was found damaged while the daemon ran: the next start does not trust the file."""
    return path.with_name("ledger.suspect")


def distrust(path: Path) -> None:
    """The next start rebuilds, whatever it sees at first sight."""
    with suppress(OSError):
        suspect(path).touch(mode=0o600)
        synced(path.parent)


def ready(path: Path, announce: Announce, now: datetime | None = None) -> dict[str, Any] | None:
    """Sees to it that the ledger at `path` can be opened; returns what was said about one that was set aside, or None. LedgerNewer."""
    whole = path.with_name("ledger.rebuilt.db")
    if whole.exists() and not path.exists():
        _put_in_place(whole, path)  # a crash came between the two moves
    reached = Mark(path).read()
    try:
        if suspect(path).exists():
            raise LedgerCorrupt(str(path), "a damaged page was found while the daemon ran")
        check(path, reached)
    except LedgerCorrupt as error:
        return _rebuild(path, whole, error.cause, announce, now or datetime.now(UTC), reached)
    return None


def _rebuild(path: Path, whole: Path, cause: str, announce: Announce, now: datetime, reached: Reached | None) -> dict[str, Any]:
    beside = path.with_name("ledger.rebuilding.db")
    for name in (whole, beside, *_companions(whole), *_companions(beside)):
        name.unlink(missing_ok=True)
    aside = path.parent / "set-aside" / now.strftime("ledger-%Y%m%dT%H%M%S.%f")
    new = open_writer(beside)
    try:
        new.execute("PRAGMA foreign_keys = OFF")
        new.execute("BEGIN")
        facts = {"cause": cause, "set_aside": str(aside), **salvage(path, new, reached)}
        announce(new, "ledger-set-aside", facts)
        reach("rebuild.copied")
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        new.execute("PRAGMA journal_mode = DELETE")
    finally:
        new.close()
    _moved(beside, whole)
    reach("rebuild.made")
    for folder in (aside.parent, aside):
        folder.mkdir(mode=0o750, exist_ok=True)
        synced(folder.parent)
    # The ledger goes first: its log without it is set aside by the next start, it without its log would read well and lack rows.
    for name in (path, *_companions(path)):
        if name.exists():
            _moved(name, aside / name.name)
    reach("rebuild.aside")
    _put_in_place(whole, path)
    return facts


def _put_in_place(whole: Path, path: Path) -> None:
    """What would be read into the new file, or doubts it, goes before it comes."""
    for name in _companions(path):
        if name.exists():
            asides = path.parent / "set-aside"
            asides.mkdir(mode=0o750, exist_ok=True)
            _moved(name, max(asides.iterdir(), key=lambda folder: folder.name, default=asides) / name.name)
    for name in (suspect(path), Mark(path).path):
        name.unlink(missing_ok=True)
    synced(path.parent)
    _moved(whole, path)
    reach("rebuild.placed")


def _companions(path: Path) -> tuple[Path, ...]:
    """A stale one would be read into whatever file has its name next."""
    return tuple(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))


def _moved(source: Path, target: Path) -> None:
    source.rename(target)
    synced(target.parent)
    if source.parent != target.parent:
        synced(source.parent)
