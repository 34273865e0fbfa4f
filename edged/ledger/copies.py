"""`edged db backup` and `vacuum`: the ledger copied while the daemon writes it, and made small again while nobody does.

Invariants
- A backup has its name only when it is whole, checked and durable; a file that is there is never replaced unless that is asked for.
- A backup is one file: no log belongs to it.
- Put back in the ledger's place it lacks what was recorded since; the mark tells so, and the start begins a new epoch from it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edged.errors import EdgedError, LedgerCorrupt, Unavailable
from edged.ledger.connection import FILE, check, open_reader, open_writer, translated
from edged.ledger.place import lock, synced

_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_DAMAGED: Final = "Restart the daemon, which sets it aside and rebuilds it; `edged db check` says what is wrong."


class BackupRefused(EdgedError):  # noqa: N818 - it names the outcome
    """A file of that name is there."""

    def __init__(self, target: Path) -> None:
        super().__init__(f"{target} is there already, and was left as it is")
        self.hint = "Choose another name, or say --force to replace it."


def backup(state_dir: Path, target: Path, *, force: bool = False) -> int:
    """Returns the copy's size. BackupRefused; Unavailable: no ledger, or the target cannot be written; LedgerCorrupt."""
    path = _existing(state_dir)
    if target.is_dir():
        raise Unavailable(f"the file {target}", "it is a directory", "Name a file in it.")
    if target.exists() and not force:
        raise BackupRefused(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with _told(path):
                _copy(path, partial)
            with partial.open("rb") as copied:
                os.fsync(copied.fileno())
            _publish(partial, target, force=force)
        finally:
            partial.unlink(missing_ok=True)
        synced(target.parent)
        return target.stat().st_size
    except OSError as error:
        raise Unavailable(
            f"the file {target}", error.strerror or str(error), "See whether its directory is writable and has room."
        ) from None


def _copy(path: Path, partial: Path) -> None:
    source = open_reader(path)
    try:
        copy = sqlite3.connect(partial, isolation_level=None)
        try:
            copy.execute("PRAGMA locking_mode = EXCLUSIVE")  # nobody else knows this file: no shared memory beside it
            copy.execute("PRAGMA synchronous = OFF")  # it is synced whole below, or removed
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise LedgerCorrupt(str(path), str(said))
        finally:
            copy.close()
    finally:
        source.close()


def _publish(partial: Path, target: Path, *, force: bool) -> None:
    if not force:
        try:
            target.hardlink_to(partial)
        except FileExistsError:
            raise BackupRefused(target) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                raise BackupRefused(target) from None
        else:
            return
    partial.rename(target)


def vacuum(state_dir: Path) -> tuple[int, int]:
    """The file's size before and after. Unavailable: the daemon runs, or there is no room; LedgerCorrupt."""
    path = _existing(state_dir)
    try:
        descriptor = lock(state_dir)
    except Unavailable as error:
        hint = "Stop the daemon first: the file must be nobody else's meanwhile. Without a vacuum its free pages are used again too."
        raise Unavailable(error.what, error.cause, hint if error.lasting else error.hint) from None
    try:
        with _told(path):
            check(path)
            connection = open_writer(path)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                before = path.stat().st_size
                _need_room(state_dir, 2 * before)
                # A temporary copy of the whole file: beside it, not in memory, and not on another, smaller disk.
                connection.execute("PRAGMA temp_store = FILE")
                os.environ["SQLITE_TMPDIR"] = str(state_dir)
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()
        return before, path.stat().st_size
    finally:
        os.close(descriptor)


def _need_room(state_dir: Path, needed: int) -> None:
    if (free := shutil.disk_usage(state_dir).free) < needed:
        cause = f"a vacuum needs up to {needed / 1e6:,.0f} MB in {state_dir}, and {free / 1e6:,.0f} MB are free"
        raise Unavailable("the disk", cause, "Free space there first; the ledger is as it was.")


def _existing(state_dir: Path) -> Path:
    path = state_dir / FILE
    if not path.exists():
        raise Unavailable(f"the ledger {path}", "there is none", "Name the configuration whose daemon writes it.")
    return path


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What SQLite says, as an error of ours."""
    try:
        yield
    except sqlite3.Error as error:
        known = translated(error, path)
        if isinstance(known, LedgerCorrupt):
            known.hint = _DAMAGED
        raise known or error from None
    except LedgerCorrupt as error:
        error.hint = _DAMAGED
        raise
