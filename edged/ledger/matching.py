"""Which recorded landing a new one is, or was. Functions of the write connection."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple
from uuid import UUID

from edged.ledger.identity import content_hash, identity, landing_hash, place_hash
from edged.ledger.rows import read_ns, stored_ns
from edged.nouns import Landing, PageResult


class Found(NamedTuple):
    """A landing's row. `id`, `pages`, `verdict`, `reason`: of its newest judgement; None of a file that was never judged."""

    landing: int
    same_as: int | None
    size: int
    sha256: bytes | None
    id: bytes | None
    pages: int
    verdict: str | None
    reason: str | None
    gone: float | None

    @property
    def original(self) -> int:
        """The landing whose results it has."""
        return self.same_as or self.landing


_FOUND = f"SELECT {', '.join(Found._fields)} FROM landing"  # noqa: S608 - our words only
_OF_RESULT = _FOUND + " WHERE landing = (SELECT landing FROM result WHERE id = ?)"  # noqa: S608 - our words only


def at_place(connection: sqlite3.Connection, landing: Landing) -> Found | None:
    """What was recorded last where it lies."""
    place = place_hash(landing.camera, landing.path)
    return _found(connection, f"{_FOUND} WHERE place = ? ORDER BY landing DESC LIMIT 1", (place,))


def same_identity(connection: sqlite3.Connection, landing: Landing, sha256: bytes | None) -> Found | None:
    key = landing_hash(landing.camera, landing.path, landing.size, landing.mtime_ns)
    return _found(
        connection, f"{_FOUND} WHERE key = ? AND camera = ? AND path = ? AND sha256 IS ?", (key, landing.camera, landing.path, sha256)
    )


def is_seen(connection: sqlite3.Connection, sha256: bytes) -> bool:
    """Whether its content may have been recorded before: False is certain."""
    return connection.execute("SELECT 1 FROM landing WHERE content = ? LIMIT 1", (content_hash(sha256),)).fetchone() is not None


def of_result(connection: sqlite3.Connection, id_: UUID) -> Found | None:
    """The landing of a result of this id, wherever it is: after a rebuild, or under a camera's new name."""
    return _found(connection, _OF_RESULT, (id_.bytes,))


def twin(connection: sqlite3.Connection, source: str, page: PageResult) -> str | None:
    """The id of the same page of the first landing with this content."""
    sha256 = bytes.fromhex(page.image.sha256)
    first = connection.execute(
        "SELECT coalesce(born, camera), path, size, mtime_ns FROM landing "
        "WHERE content = ? AND sha256 = ? AND how = 'judged' AND pages > ? ORDER BY landing LIMIT 1",
        (content_hash(sha256), sha256, page.image.page),
    ).fetchone()
    if first is None:
        return None
    camera, path, size, mtime_ns = first
    return str(identity(source, camera, path, size, read_ns(mtime_ns), page.image.sha256, page.image.page))


def renamed(connection: sqlite3.Connection, landing: Landing, sha256: bytes) -> Found | None:
    """A file of the same size, mtime and content that a scan no longer saw at its old path, and that we did not move ourselves."""
    return _found(
        connection,
        f"{_FOUND} WHERE content = ? AND sha256 = ? AND camera = ? AND size = ? AND mtime_ns = ? AND gone_by = 'vanished' "
        "AND path <> ? ORDER BY landing DESC LIMIT 1",
        (content_hash(sha256), sha256, landing.camera, landing.size, stored_ns(landing.mtime_ns), landing.path),
    )


def _found(connection: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> Found | None:
    row = connection.execute(sql, values).fetchone()
    return None if row is None else Found(*row)
