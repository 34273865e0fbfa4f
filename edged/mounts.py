"""On what kind of file system a path lies: /proc/self/mountinfo and /etc/fstab, read as they are now."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edged.config import WatchMode

_ESCAPE = re.compile(r"\\([0-7]{3})")
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "davfs", "afs", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2"),
    )
)
_LOCAL_FUSE = frozenset(("fuseblk",))
_TELLS_HOLES = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs"))


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted where: `point` as a path, `kind` as the kernel names it (ext4, cifs, fuse.sshfs)."""

    point: str
    kind: str
    source: str

    @property
    def network(self) -> bool:
        """Others can write behind this kernel's back: inotify tells nothing and SQLite is not safe."""
        return self.kind in _NETWORK or (self.kind.startswith("fuse") and self.kind not in _LOCAL_FUSE)

    @property
    def tells_holes(self) -> bool:
        """A hole in a file is space reserved and never written."""
        return self.kind in _TELLS_HOLES


def mount_of(path: str, mountinfo: str | None = None) -> Mount:
    """The mount an absolute path without symbolic links lies on, whether or not the path exists."""
    best = Mount("/", "unknown", "")
    for line in (
        mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    ).splitlines():
        left, _, right = line.partition(" - ")
        fields, facts = left.split(), right.split()
        if len(fields) < 5 or not facts:
            continue
        point = _plain(fields[4])
        # A later line covers an earlier one with the same mount point.
        if len(point) >= len(best.point) and _below(path, point):
            best = Mount(point, facts[0], _plain(facts[1]) if len(facts) > 1 else "")
    return best


def is_network(path: Path) -> str | None:
    """The kind of network file system a path lies on, or None: the ledger must not live on one."""
    mount = mount_of(os.path.realpath(path))
    return mount.kind if mount.network else None


def mode_for(mount: Mount, wanted: WatchMode) -> WatchMode:
    """`auto` becomes inotify on local file systems and poll on all others."""
    if wanted is not WatchMode.AUTO:
        return wanted
    return WatchMode.POLL if mount.network else WatchMode.INOTIFY


def absent_mount(path: str, mount: Mount, fstab: str | None = None) -> str | None:
    """The mount point that /etc/fstab promises for a path and that is not mounted now: what lies there is the bare directory."""
    if fstab is None:
        try:
            fstab = Path("/etc/fstab").read_text("utf-8", "surrogateescape")
        except OSError:
            return None
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) < 2 or line.lstrip().startswith("#") or not fields[1].startswith("/"):
            continue
        point = _plain(fields[1])
        if len(point) > len(mount.point) and point != "/" and _below(path, point):
            return point
    return None


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
