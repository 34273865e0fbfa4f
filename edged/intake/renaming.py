"""Renaming that never replaces, copies that are proven before the original goes, and what makes both survive a power cut. For a folder's
thread.
"""

# ruff: noqa: PTH102, PTH104, PTH108, PTH112, PTH116, PTH120
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EROFS)
_BLOCK = 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


def rename_new(source: bytes, target: bytes) -> None:
    """Rename; FileExistsError when the target exists, OSError EXDEV across file systems."""
    if _libc.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), source, None, target)
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        facts = os.stat(source, follow_symlinks=False)
        if facts.st_nlink < 2 or not os.path.samestat(facts, os.stat(target, follow_symlinks=False)):
            raise
        os.unlink(source)  # a crash came between the two steps below
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Neither is known to this file system: reserve the name, then replace our own empty file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            os.rename(source, target)
        except OSError:
            os.unlink(target)
            raise
    else:
        os.unlink(source)


def sync_directory(path: bytes) -> None:
    """Make renames in a directory survive a power cut. Raises OSError when the disk fails; one that knows no such sync is left alone."""
    _sync(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def sync_file(path: bytes) -> None:
    """The same for what a file holds."""
    _sync(open_regular(path))


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(fd)


def make_directories(path: bytes, mode: int) -> None:
    """With its parents; every new one's own entry survives a power cut. Raises OSError."""
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, mode)
        sync_directory(os.path.dirname(each))


def open_regular(path: bytes) -> int:
    """A descriptor of a regular file; never blocks on a FIFO, never follows a link. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return fd


def sha256_of(path: bytes, tick: Callable[[], None]) -> str:
    """Of the whole file, in hexadecimal digits."""
    digest, fd = hashlib.sha256(), open_regular(path)
    try:
        while block := os.read(fd, _BLOCK):
            digest.update(block)
            tick()
    finally:
        os.close(fd)
    return digest.hexdigest()


def copy_new(source: bytes, target: bytes, tick: Callable[[], None]) -> str:
    """Copy to a new file, keep its times, fsync it, read it back and compare; returns the sha256. The partial copy goes on any failure."""
    digest, reading = hashlib.sha256(), open_regular(source)
    try:
        writing = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            while block := os.read(reading, _BLOCK):
                digest.update(block)
                tick()
                view = memoryview(block)
                while view:
                    view = view[os.write(writing, view) :]
            facts = os.fstat(reading)
            os.utime(writing, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            os.fsync(writing)
        except OSError:
            os.unlink(target)
            raise
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    if sha256_of(target, tick) != digest.hexdigest():
        os.unlink(target)
        raise OSError(errno.EIO, "the copy differs from the original", target)
    return digest.hexdigest()
