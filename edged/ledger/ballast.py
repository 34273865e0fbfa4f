"""A few megabytes kept to be given up: what would make room on a full disk (deleting rows, writing the log back) needs room itself.

Invariants
- It is given up only when the disk has refused a write; from then on nothing new is judged, so that what it frees is left to
  deliveries, events and retention.
- It is made again once twice its size is free beyond what must stay free; until then `given_up` holds.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

BYTES: Final = 8 * 1024**2
SHARE: Final = 16
"""A small disk keeps at most this part of itself."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_RESERVING: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Ballast:
    """`{state_dir}/ballast`. For the writer's thread; `given_up` may be read anywhere."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"
        self.given_up = False
        self._without = False

    def needs_bytes(self, disk_bytes: int) -> int:
        """So much must be free, beyond what must stay free, for it to be made again; 0 while it is there."""
        size = min(BYTES, disk_bytes // SHARE)
        return 2 * size if not self._without and self._bytes() < size else 0

    def give_up(self) -> None:
        self.given_up = not self._without
        with suppress(OSError):  # a disk that cannot be written at all: its own error is told
            self._path.unlink(missing_ok=True)

    def keep(self, disk_bytes: int, free_bytes: int, min_free_bytes: int) -> None:
        """Makes it where it is missing and there is room; an error of the disk is told by whoever writes the ledger."""
        size = min(BYTES, disk_bytes // SHARE)
        if self._without or (not self.given_up and self._bytes() >= size) or free_bytes < min_free_bytes + 2 * size:
            return
        try:
            self._make(size)
        except OSError as error:
            if error.errno in _NO_RESERVING:
                self._without, self.given_up = True, False
            elif error.errno in _NO_ROOM:
                self.give_up()
        else:
            self.given_up = False

    def _make(self, size: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)

    def _bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
