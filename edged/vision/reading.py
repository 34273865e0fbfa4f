"""Reads one landed file whole, and only that file: no link is followed, nothing but a regular file is read, and it must not have changed.

The outcomes are values, because they travel from a decoder process to the daemon.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Expected:
    """What the landing said of the file; inode 0 where the file system has none to rely on."""

    size: int
    mtime_ns: int
    inode: int


class ReadFailed(Exception):  # noqa: N818 - it names what happened
    """`kind`: vanished | changed | unavailable; the text says what was found."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes and their sha256. A file over the limit has no `data`, and no `sha256` when hashing it took too long."""

    data: bytes | None
    sha256: str
    size: int
    head: bytes


def read(folder: bytes, path: bytes, expected: Expected | None, max_bytes: int, hash_s: float, reading: Callable[[], None]) -> Content:
    """The file `path` below `folder`. `reading` is called when the file is open and the first byte is asked for. Raises ReadFailed."""
    try:
        fd = _open(folder, path)
    except OSError as error:
        raise _failed(error, folder) from None
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise ReadFailed("changed", f"it is {_kind(before.st_mode)}, not a regular file")
        _compare(before, expected)
        reading()
        if before.st_size > max_bytes:
            return _hash_only(fd, before.st_size, hash_s)
        data = _whole(fd, before.st_size)
        after = os.fstat(fd)
        if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise ReadFailed("changed", f"it was written to while it was read ({before.st_size} bytes before, {after.st_size} after)")
        return Content(data, hashlib.sha256(data).hexdigest(), len(data), data[:64])
    except OSError as error:
        raise _failed(error, folder) from None
    finally:
        os.close(fd)


def _open(folder: bytes, path: bytes) -> int:
    *between, name = path.split(b"/")
    if not between:
        return os.open(os.path.join(folder, name), _FLAGS)  # noqa: PTH118 - bytes
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in between:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, _FLAGS, dir_fd=at)
    finally:
        os.close(at)


def _whole(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    if len(data) == size or not data:
        return data
    # A network share may hand out less than was asked for.
    parts = [data]
    total = len(data)
    while total <= size and (part := os.read(fd, size + 1 - total)):
        parts.append(part)
        total += len(part)
    return b"".join(parts)


def _hash_only(fd: int, size: int, hash_s: float) -> Content:
    digest, head, until = hashlib.sha256(), b"", time.monotonic() + hash_s
    while part := os.read(fd, _BLOCK):
        head = head or part[:64]
        digest.update(part)
        if time.monotonic() > until:
            return Content(None, "", size, head)
    return Content(None, digest.hexdigest(), size, head)


def _compare(found: os.stat_result, expected: Expected | None) -> None:
    if expected is None:
        return
    if (found.st_size, found.st_mtime_ns) != (expected.size, expected.mtime_ns):
        raise ReadFailed("changed", f"it had {expected.size} bytes and now has {found.st_size}, or its time of change moved")
    if expected.inode and found.st_ino != expected.inode:
        raise ReadFailed("changed", "another file stands under its name")


def _failed(error: OSError, folder: bytes) -> ReadFailed:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.isdir(folder):  # noqa: PTH112 - bytes
            return ReadFailed("unavailable", "the folder is not there")
        return ReadFailed("vanished", "the file is not there any more")
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
        return ReadFailed("changed", "it is a link, a socket or a device, not a regular file")
    return ReadFailed("unavailable", error.strerror or str(error))


def _kind(mode: int) -> str:
    names = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
    return next((name for test, name in names if test(mode)), "something else")
