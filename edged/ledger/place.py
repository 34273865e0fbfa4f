"""Where the ledger may lie: on a local file system, used by one daemon."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edged.errors import ConfigError, ConfigProblem, Unavailable
from edged.mounts import is_network


def prepare(state_dir: Path) -> None:
    """Makes the directory. ConfigError: it lies on a network file system; Unavailable: it cannot be made or written."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        kind = is_network(state_dir)
    except OSError as error:
        raise Unavailable(
            f"the state directory {state_dir}",
            error.strerror or str(error),
            "Let the daemon's user write there, or set [station] state_dir.",
        ) from None
    if kind:
        problem = f"{state_dir} lies on a network file system ({kind}), where SQLite cannot keep its promise"
        raise ConfigError([ConfigProblem("configuration", "station.state_dir", problem, "choose a directory on a local disk")])


def lock(state_dir: Path) -> int:
    """The descriptor that holds the directory's lock; the kernel lets go of it when the process ends. Unavailable: another has it."""
    path = state_dir / "ledger.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"the state directory {state_dir}", error.strerror or str(error), "Let the daemon's user write there.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise Unavailable(
            f"the state directory {state_dir}",
            f"another edged (process {owner}) uses it",
            "Stop that one first, or give this instance a [station] state_dir of its own.",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
