"""Identities and hashes of what landed. Pure: no clock, no counter and no random number enters them.

The id's preimage: each field as a 4-byte big-endian length and its bytes, in the order of `identity`'s arguments. Text is UTF-8, the
path is as the file system holds it, numbers are ASCII decimals, sha256 is lower-case hexadecimal.
"""

from __future__ import annotations

import hashlib
import os
from uuid import UUID

from edged.nouns import display_name


def identity(source: str, camera: str, path: bytes, size: int, mtime_ns: int, sha256: str, page: int, judgement: int = 0) -> UUID:
    """The UUIDv8 of one page's verdict: the same landing judged the same time has the same id for ever."""
    fields = (
        *(source.encode(), camera.encode(), path, b"%d" % size, b"%d" % mtime_ns),
        *(sha256.encode(), b"%d" % page, b"%d" % judgement),
    )
    digest = bytearray(hashlib.sha256(b"".join([len(field).to_bytes(4, "big") + field for field in fields])).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # version 8: made by a rule of our own
    digest[8] = digest[8] & 0x3F | 0x80  # the variant of RFC 9562
    return UUID(bytes=bytes(digest))


def place_hash(camera: str, path: bytes) -> int:
    """Of a file's place, as SQLite holds integers: signed 64 bits."""
    return _hash64(b"%d:%b%b" % (len(camera), camera.encode(), path))


def stem_hash(camera: str, path: bytes) -> int:
    """Of an image's place without its extension: what it has in common with its sidecar."""
    return place_hash(camera, os.path.splitext(path)[0])  # noqa: PTH122 - bytes


def landing_hash(camera: str, path: bytes, size: int, mtime_ns: int) -> int:
    """Of what a scan can see of a file without reading it."""
    return _hash64(b"%d:%d:%d:%b%b" % (size, mtime_ns, len(camera), camera.encode(), path))


def name_hash(path: bytes) -> int:
    """Of the last part of a path as people see it, to find a file by its bare name."""
    base = path.rpartition(b"/")[2]
    text = base.decode("utf-8", "replace")
    return _hash64(base if text.isprintable() and "\ufffd" not in text else display_name(base).encode())


def content_hash(sha256: bytes) -> int:
    return int.from_bytes(sha256[:8], "big", signed=True)


def _hash64(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
