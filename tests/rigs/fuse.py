"""A share without a network: bindfs over a folder. It hangs when its process is stopped; inotify hears nothing of what is written behind.

Fixture
- `make_fuse`: `make_fuse() -> Fuse`, mounted; needs root and bindfs, else the test is skipped with its reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rigs.processes import freeze, wait_gone, wait_until


class Fuse:
    """`folder`: the share as the daemon sees it; `behind`: the same folder on the server."""

    def __init__(self, home: Path) -> None:
        self.folder, self.behind = home / "share", home / "server"
        self.folder.mkdir()
        self.behind.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        command = ["bindfs", "-f", str(self.behind), str(self.folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.ismount(self.folder) or not self.serves, 10, "bindfs has mounted")

    @property
    def serves(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Every access blocks while the block runs."""
        assert self._process is not None
        freeze(self._process.pid)
        try:
            yield
        finally:
            self.answer()

    def answer(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)

    def die(self) -> None:
        """The server is gone for good: what is mounted answers ENOTCONN."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def unmount(self) -> None:
        if self._process is not None:
            self.answer()
        subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)
        if self._process is not None:
            self._process.terminate()
            wait_gone(self._process, 10)


@pytest.fixture
def make_fuse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Fuse]]:
    shares: list[Fuse] = []

    def make() -> Fuse:
        if os.getuid() != 0 or shutil.which("bindfs") is None:
            pytest.skip("a FUSE share needs root and bindfs")
        share = Fuse(tmp_path_factory.mktemp("fuse"))
        shares.append(share)
        share.mount()
        if not share.serves:
            pytest.skip("bindfs does not mount here")
        return share

    yield make
    for share in shares:
        share.unmount()
