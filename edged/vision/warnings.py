"""What codecs only mutter on stderr: libjpeg fills a damaged stretch with gray and warns; such an image must not pass as good."""

from __future__ import annotations

import os

_DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid SOS", b"Unsupported marker")
_KEPT = 4096


class Warnings:
    """Watches one descriptor that is a regular file opened for appending (the parent makes it so); on anything else it sees nothing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._seen = self._size()

    def _size(self) -> int:
        return os.fstat(self._fd).st_size

    def corrupt(self) -> str | None:
        """The first complaint since the last call that means damaged pixels, else None."""
        size = self._size()
        if size == self._seen:
            return None
        said = os.pread(self._fd, _KEPT, self._seen)
        self._seen = size
        if size > _KEPT:  # it must not grow for ever
            os.ftruncate(self._fd, 0)
            self._seen = 0
        for line in said.splitlines():
            if line.startswith(_DAMAGE):
                return line.decode("ascii", "replace")
        return None
