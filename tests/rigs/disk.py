"""A small disk of a test's own: a loop-mounted ext4 or a tmpfs, filled, frozen, made read-only, and always given back.

Fixture
- `make_disk`: `make_disk(size_mb=64, kind="ext4", inodes=None) -> Disk`; needs root, else the test is skipped with its reason.
"""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rigs.processes import wait_until
from rigs.station import Station

BLOCK = 4096
LEDGER = """
[ledger]
min_free_bytes = 4000000
"""
"""What a station on a disk of 64 MB keeps free."""


class Disk:
    """`folder`: where it is mounted; `others`: what other programs put on it."""

    def __init__(self, home: Path, size_mb: int, kind: str, inodes: int | None) -> None:
        self.folder, self.image, self.kind = home / "disk", home / "disk.img", kind
        self.others = self.folder / "others"
        self._size_mb, self._inodes = size_mb, inodes
        self.folder.mkdir()

    def mount(self) -> None:
        if self.kind == "tmpfs":
            self._run("mount", "-t", "tmpfs", "-o", f"size={self._size_mb}m", "tmpfs", str(self.folder))
        else:
            if not self.image.exists():
                with self.image.open("wb") as file:
                    file.truncate(self._size_mb * 1024**2)
                inodes = ["-N", str(self._inodes)] if self._inodes else []
                self._run("mkfs.ext4", "-q", "-m", "0", *inodes, str(self.image))
            # A device of its own each time: mount alone takes the one that an older mount still holds, and its errors with it.
            device = self._run("losetup", "--find", "--show", str(self.image))
            self._run("mount", "-o", "errors=remount-ro", device, str(self.folder))
            self._run("losetup", "--detach", device)  # once it is unmounted
        self.others.mkdir(exist_ok=True)

    def unmount(self) -> None:
        """Also while it is in use: then it goes when its last file is closed."""
        self.thaw()
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)

    def free_bytes(self) -> int:
        seen = os.statvfs(self.folder)
        return seen.f_bavail * seen.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Another program takes what there is, but for `leave_bytes`: at once, before anybody can give something up to it."""
        with (self.others / "large").open("ab") as file:
            size = file.seek(0, os.SEEK_END)
            piece = room = self.free_bytes() - leave_bytes
            while min(piece, room) >= BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), size, min(piece, room))
                    size += min(piece, room)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    piece //= 2
                room = self.free_bytes() - leave_bytes

    def fill_inodes(self) -> None:
        """Makes empty files until there can be no more."""
        with suppress(OSError):
            for number in itertools.count():
                (self.others / f"small{number}").touch()

    def empty(self) -> None:
        """The other program's files go."""
        for file in self.others.iterdir():
            file.unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every write hangs in the kernel (D state) while the block runs."""
        self._run("fsfreeze", "-f", str(self.folder))
        try:
            yield
        finally:
            self.thaw()

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "-u", str(self.folder)], capture_output=True, check=False)

    def make_read_only(self) -> None:
        """As the kernel does when it finds an error: at once, whoever has files open. Only mounting anew ends it."""
        Path("/sys/fs/ext4", self.device(), "trigger_fs_error").write_text("a test")

    def mount_anew(self) -> None:
        """Beneath whoever still has files of the old mount open, as after umount -l."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self.mount()

    def let_go(self) -> bool:
        said = (
            subprocess.run(["losetup", "-j", str(self.image)], capture_output=True, text=True, check=True) if self.kind != "tmpfs" else None
        )
        return said is None or not said.stdout

    def device(self) -> str:
        """Its block device's name, as in /sys/fs/ext4."""
        said = subprocess.run(["findmnt", "-no", "SOURCE", str(self.folder)], capture_output=True, text=True, check=True)
        return said.stdout.strip().removeprefix("/dev/")

    @staticmethod
    def _run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()


def at_work(start_station: Callable[..., Station], disk: Disk) -> Station:
    """A station whose state lies on the disk, and that has judged its first images."""
    station = start_station(camera='after = "move"', toml=LEDGER, state=disk.folder / "state")
    station.drop(20)
    station.settle()
    return station


def answers_quickly(station: Station) -> None:
    """Health and status come from memory: no disk may hold them up."""
    for path in ("/livez", "/api/v1/status"):
        began = time.monotonic()
        with urllib.request.urlopen(station.daemon.url + path, timeout=5) as answer:
            answer.read()
            assert answer.status == 200
        assert time.monotonic() - began < 1


def stands_still_within(station: Station, seconds: float) -> int:
    """How many are recorded, once nothing more is; called when the fault has begun."""
    time.sleep(seconds)
    before = len(station.rows())
    time.sleep(1.5)
    assert len(station.rows()) == before, f"images are still judged {seconds:g} s after the disk was full"
    return before


@pytest.fixture
def make_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Disk]]:
    disks: list[Disk] = []

    def make(size_mb: int = 64, kind: str = "ext4", inodes: int | None = None) -> Disk:
        if os.getuid() != 0:
            pytest.skip("a disk of its own needs root")
        disk = Disk(tmp_path_factory.mktemp("disk"), size_mb, kind, inodes)
        disks.append(disk)
        try:
            disk.mount()
        except OSError as error:
            pytest.skip(f"no disk of its own can be mounted here: {error}")
        return disk

    yield make
    for disk in disks:
        disk.unmount()
        wait_until(disk.let_go, 60, "the loop device lets go of the image")
