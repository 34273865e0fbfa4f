"""Where the ledger may lie: on a local file system, used by one daemon."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edged.errors import ConfigError, ConfigProblem, Unavailable

NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "9p", "beegfs", "davfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.davfs2", "fuse.cephfs", "fuse.gcsfuse", "fuse.smbnetfs"),
    )
)


def network_type(mountinfo: str, path: str) -> str | None:
    """The file system's type where `path` (absolute, without links) lies on a network file system; `mountinfo` is /proc/self/mountinfo."""
    best, kind = "", None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # the last of equal ones lies on top
            best, kind = point, after.split()[0]
    return kind if kind in NETWORK else None


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def prepare(state_dir: Path) -> None:
    """Makes the directory. ConfigError: it lies on a network file system; Unavailable: it cannot be made or written."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        real = str(state_dir.resolve())
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError as error:
        raise Unavailable(
            f"the state directory {state_dir}",
            error.strerror or str(error),
            "Let the daemon's user write there, or set [station] state_dir.",
        ) from None
    if kind := network_type(mountinfo, real):
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
