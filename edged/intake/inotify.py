"""Raw inotify by ctypes: hints, and never more than hints.

Invariants
- An overflow is counted and reported as `on_lost`: the listener lists the folder again.
- A watch that ends (unmounted, directory gone) is reported as `on_lost` too; the next poll arms it again.
- Reading never blocks and never raises into the event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable


class Event:
    """The kernel's bits, those that intake uses; plain numbers, since every event is tested against several."""

    ATTRIB = 0x4
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    EXCL_UNLINK = 0x4000000
    ISDIR = 0x40000000


_WATCHED = (
    Event.ATTRIB
    | Event.CLOSE_WRITE
    | Event.MOVED_FROM
    | Event.MOVED_TO
    | Event.CREATE
    | Event.DELETE
    | Event.DELETE_SELF
    | Event.MOVE_SELF
    | Event.ONLYDIR
    | Event.EXCL_UNLINK
)
_LOST = Event.UNMOUNT | Event.Q_OVERFLOW | Event.IGNORED | Event.DELETE_SELF | Event.MOVE_SELF
_HEAD = struct.Struct("iIII")
_READ = 256 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One inotify instance on the running loop. `on_event(watch, event bits, name)`, `on_lost(watch or -1)` run in the loop."""

    def __init__(self, on_event: Callable[[int, int, bytes], None], on_lost: Callable[[int], None]) -> None:
        """Raises OSError when the kernel grants no further instance."""
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._on_event, self._on_lost = on_event, on_lost
        self.overflows = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read)

    def watch(self, directory: bytes) -> int:
        """Watch a directory; may block on a hung mount, so it is called in the folder's thread. Raises OSError."""
        return _checked(_libc.inotify_add_watch(self._fd, directory, _WATCHED))

    def unwatch(self, watch: int) -> None:
        _libc.inotify_rm_watch(self._fd, watch)  # a watch that ended by itself is as good as removed

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except OSError:
            return  # nothing there after all
        position, end = 0, len(data)
        while position + _HEAD.size <= end:
            watch, bits, _cookie, length = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            if bits & _LOST:
                self.overflows += bool(bits & Event.Q_OVERFLOW)
                self._on_lost(watch)
            else:
                self._on_event(watch, bits, data[position : position + length].rstrip(b"\0"))
            position += length


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
