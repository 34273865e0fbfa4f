"""Power cuts: a file system in a loop-mounted image, shut down by ioctl while somebody writes (nothing more reaches its log), and
mounted again.

- `disk(home, kind)`: an ext4 or xfs of its own; skips the test where this user cannot mount one.
- `writers(home, prefix)`: a process that forks a writer (`power_writer.py`) for each cycle, so that a cycle costs no start of Python.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rigs.processes import wait_gone, wait_until, with_parent

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
NOLOGFLUSH = 2
ROOT = Path(__file__).parents[2]


class Disk:
    """`folder` is where it is mounted."""

    def __init__(self, home: Path, kind: str, megabytes: int = 320) -> None:
        self.image, self.folder, self.kind = home / f"{kind}.img", home / kind, kind
        home.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir()
        with self.image.open("wb") as image:
            image.truncate(megabytes * 1024**2)
        subprocess.run([f"mkfs.{kind}", "-q", str(self.image)], check=True, capture_output=True)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.folder)], check=True, capture_output=True)

    def unmount(self) -> None:
        def gone() -> bool:
            return subprocess.run(["umount", str(self.folder)], check=False, capture_output=True).returncode == 0

        wait_until(gone, 10, f"{self.folder} is unmounted")

    def cut(self) -> None:
        """From now on every write and sync fails; what was not synced is not there after the next mount."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Everything written so far is on the disk."""
        subprocess.run(["sync", "-f", str(self.folder)], check=True)

    def back(self) -> None:
        self.unmount()
        try:
            wait_until(lambda: not self._attached(), 3, "the loop device lets go")
        except AssertionError:
            # Somebody else's mount namespace still has it, so it would come back as it is: shut down. What it wrote is what counts.
            other = self.image.with_suffix(f"{self.image.suffix}+")
            subprocess.run(["cp", "--sparse=always", str(self.image), str(other)], check=True)
            self.image = other
        self.mount()

    def _attached(self) -> bool:
        listed = subprocess.run(["losetup", "-j", str(self.image)], check=True, capture_output=True, text=True)
        return bool(listed.stdout.strip())


@contextmanager
def disk(home: Path, kind: str) -> Iterator[Disk]:
    """Mounted; unmounted at the end."""
    if os.getuid() != 0:
        pytest.skip("a power cut needs root, to mount a file system and to shut it down")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    made = Disk(home, kind)
    try:
        made.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mount of {kind} here: {error.stderr.decode(errors='replace').strip()}")
    try:
        yield made
    finally:
        with suppress(AssertionError):
            made.unmount()
        subprocess.run(["umount", "-l", str(made.folder)], check=False, capture_output=True)
        for image in home.glob(f"{kind}.img*"):
            image.unlink()


class Writer:
    """One forked writer; `said` is what it acknowledged, on a file system that is not cut."""

    def __init__(self, pid: int, acks: Path, ended: Any) -> None:
        self.pid, self._acks, self._ended = pid, acks, ended

    def said(self) -> list[str]:
        whole = self._acks.read_text()
        return whole[: whole.rfind("\n") + 1].splitlines()

    def heard(self, word: str, count: int) -> None:
        """Returns once it has said so `count` times."""
        wait_until(
            lambda: sum(line.startswith(word) for line in self.said()) >= count or not Path(f"/proc/{self.pid}").exists(),
            20,
            f"the writer says {word} {count} times",
        )

    def kill(self) -> list[str]:
        """SIGKILL; returns all that it said."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._ended()
        return self.said()

    def wait(self) -> list[str]:
        """Until it has ended by itself."""
        self._ended()
        return self.said()


class Writers:
    def __init__(self, home: Path, prefix: Sequence[str] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        command = with_parent([*prefix, sys.executable, "-m", "rigs.power_writer"])
        self._log = (home / "writers.log").open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment, text=True
        )
        self._home, self._count = home, 0

    def start(self, role: str, state: Path, **options: Any) -> Writer:
        """Returns once it says that it is ready."""
        self._count += 1
        acks = self._home / f"acks-{self._count}"
        acks.touch()
        pid = int(self._ask({"role": role, "state": str(state), "acks": str(acks), "options": options}))
        writer = Writer(pid, acks, self._ended)
        wait_until(lambda: "ready" in writer.said() or not Path(f"/proc/{pid}").exists(), 20, f"the writer {role} is ready")
        assert "ready" in writer.said(), self.errors()
        return writer

    def errors(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-4000:]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        wait_gone(self._process, 20)
        self._process.stdout.close()
        self._log.close()

    def _ask(self, wanted: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _ended(self) -> None:
        assert self._line() == "ended"

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, self.errors()
        return line


@contextmanager
def writers(home: Path, prefix: Sequence[str] = ()) -> Iterator[Writers]:
    home.mkdir(parents=True, exist_ok=True)
    made = Writers(home, prefix)
    try:
        yield made
    finally:
        made.close()


def cut_under(writer: Writer, disks: Sequence[Disk], after_s: float) -> list[str]:
    """The power goes after `after_s`, and comes back; returns what the writer had acknowledged before.

    Not what it said later: a sync that is under way while the file system is shut down may end well, though its transaction was given up
    (jbd2 takes one that it has dropped for one that is done). With real power nobody would have been there to hear it.
    """
    time.sleep(after_s)
    said = writer.said()
    for each in disks:
        each.cut()
    writer.kill()
    for each in disks:
        each.back()
    return said
