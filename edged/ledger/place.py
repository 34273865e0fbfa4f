"""Where the ledger may lie: on a local file system, used by one daemon."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from edged.errors import ConfigError, ConfigProblem, Unavailable
from edged.mounts import is_network

PASSING: Final = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a disk or a machine gets over; a missing permission lasts."""


def prepare(state_dir: Path) -> None:
    """Makes the directory. ConfigError: it lies on a network file system; Unavailable: it cannot be made or written."""
    try:
        new = [each for each in (state_dir, *state_dir.parents) if not each.exists()]
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        for each in new:
            synced(each.parent)
        kind = is_network(state_dir)
    except OSError as error:
        raise _away(state_dir, error) from None
    if kind:
        problem = f"{state_dir} lies on a network file system ({kind}), where SQLite cannot keep its promise"
        raise ConfigError([ConfigProblem("configuration", "station.state_dir", problem, "choose a directory on a local disk")])


def lock(state_dir: Path) -> int:
    """The descriptor that holds the directory's lock; the kernel lets go of it when the process ends. Unavailable: another has it."""
    path = state_dir / "ledger.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _away(state_dir, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Unavailable(
            f"the state directory {state_dir}",
            f"another edged (process {owner}) uses it",
            "Stop that one first, or give this instance a [station] state_dir of its own.",
            lasting=True,
        ) from None
    with suppress(OSError):  # a full disk: the lock holds all the same, only whose it is cannot be read
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def locked_still(state_dir: Path, descriptor: int) -> int:
    """The lock's descriptor as of now: another one when the directory was mounted anew beneath us. Unavailable: another has it by now."""
    held = os.fstat(descriptor)
    with suppress(FileNotFoundError):
        seen = (state_dir / "ledger.lock").stat()
        if (seen.st_dev, seen.st_ino) == (held.st_dev, held.st_ino):
            return descriptor
    fresh = lock(state_dir)
    os.close(descriptor)
    return fresh


def synced(folder: Path) -> None:
    """New names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _away(state_dir: Path, error: OSError) -> Unavailable:
    hint = "Let the daemon's user write there, or set [station] state_dir."
    if error.errno in PASSING:
        hint = "See what is wrong with its disk (df, mount, dmesg); edged goes on by itself."
    return Unavailable(f"the state directory {state_dir}", error.strerror or str(error), hint, lasting=error.errno not in PASSING)
