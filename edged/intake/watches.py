"""One camera's inotify watches: which directories are watched, and the hints that came in.

Invariants
- `hints` is bounded; above its bound, and after an overflow or a lost watch, `lost` asks for a listing instead.
- A directory is watched before it is listed, so that nothing falls between.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import IntEnum

from edged.intake.folder import Folder
from edged.intake.inotify import Event, Inotify

MAX_HINTS = 16_384
_REFUSED = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.ENOSYS)


class Hint(IntEnum):
    """What inotify said of a name last; a higher one shortens the wait more."""

    SEEN = 0
    CLOSED = 1
    MOVED = 2


class Watches:
    """`wake` is called in the loop when there is something to do."""

    def __init__(self, folder: Folder, wake: Callable[[], None]) -> None:
        self._folder, self._wake = folder, wake
        self._inotify: Inotify | None = None
        self._directories: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}
        self.hints: dict[bytes, Hint] = {}
        self.lost = False
        self.directories_changed = False

    @property
    def overflows(self) -> int:
        return self._inotify.overflows if self._inotify else 0

    async def arm(self, directory: bytes) -> None:
        """Watch a directory below the folder unless it is watched. When the kernel grants no more watches, polling has to do."""
        if directory in self._numbers or self._folder.inotify_refused:
            return
        try:
            if self._inotify is None:
                self._inotify = Inotify(self._on_event, self._on_lost)
            inotify, path = self._inotify, self._folder.absolute(directory)
            number = await self._folder.thread.call(lambda: inotify.watch(path))
        except OSError as error:
            if error.errno in _REFUSED:
                self._folder.inotify_refused = f"the kernel grants no more inotify watches ({error.strerror})"
                self.close()
            return
        self._directories[number], self._numbers[directory] = directory, number

    def disarm(self, directory: bytes) -> None:
        number = self._numbers.pop(directory, None)
        if number is not None:
            self._directories.pop(number, None)
            if self._inotify is not None:
                self._inotify.unwatch(number)

    def disarm_all(self) -> None:
        for directory in list(self._numbers):
            self.disarm(directory)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        self._inotify, self._directories, self._numbers = None, {}, {}

    def take(self, count: int) -> dict[bytes, Hint]:
        """The oldest hints, at most `count`."""
        if len(self.hints) <= count:
            taken, self.hints = self.hints, {}
            return taken
        return {path: self.hints.pop(path) for path in list(self.hints)[:count]}

    def _on_event(self, number: int, bits: int, name: bytes) -> None:
        directory = self._directories.get(number)
        if directory is None:
            return  # of a watch just being armed or ended: a listing follows
        if bits & Event.ISDIR:
            if bits & ~(Event.ISDIR | Event.ATTRIB):
                self.directories_changed = True
                self._wake()
            return
        path = directory + b"/" + name if directory else name
        hint = Hint.MOVED if bits & Event.MOVED_TO else Hint.CLOSED if bits & Event.CLOSE_WRITE else Hint.SEEN
        if path in self.hints:
            # The last of them counts: a file opened again after its rename is a file being written.
            hint = max(hint, self.hints[path]) if bits & Event.ATTRIB else hint
        elif len(self.hints) >= MAX_HINTS:
            self.lost = True
            return
        self.hints[path] = hint
        self._wake()

    def _on_lost(self, number: int) -> None:
        directory = self._directories.pop(number, None)
        if directory is not None:
            self._numbers.pop(directory, None)
        elif number >= 0:
            return  # the end of a watch we ended ourselves
        self.lost = True
        self._wake()
