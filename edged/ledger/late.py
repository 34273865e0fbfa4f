"""Images judged without the sidecar that might have told who they are: which of them a sidecar belongs to that comes late.

Invariants
- A landing is in `awaiting` from the transaction that records it to the one that takes its late sidecar into account, or to its time's end.
- The stems in memory are a filter: one too many costs a look at the table, and none is missing.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from edged.ledger.identity import stem_hash
from edged.ledger.known import KnownKeys
from edged.ledger.reading import Readers
from edged.nouns import Landing

PIECE: Final = 200


class Late:
    """`age`: the ledger's own clock."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self.age: Callable[[], int] = lambda: 0
        self._stems = KnownKeys()
        self._over: deque[int] = deque()

    async def load(self) -> None:
        self._stems = await self._readers.run(lambda c: KnownKeys(stem for (stem,) in c.execute("SELECT DISTINCT stem FROM awaiting")))

    def recorded(self, landing: Landing) -> None:
        if landing.late_s > 0:
            self._forget()  # first: the stem may be one of those
            self._stems.add(stem_hash(landing.camera, landing.path))

    def tick(self, connection: sqlite3.Connection) -> None:
        """In the writer's thread: those whose time is over are awaited no more."""
        rows = connection.execute(
            "DELETE FROM awaiting WHERE landing IN (SELECT landing FROM awaiting WHERE until < ? ORDER BY until LIMIT ?) RETURNING stem",
            (self.age(), PIECE),
        ).fetchall()
        for (stem,) in rows:
            if not connection.execute("SELECT 1 FROM awaiting WHERE stem = ?", (stem,)).fetchone():
                self._over.append(stem)

    async def awaiting(self, camera: str, stems: Sequence[bytes]) -> list[tuple[bytes, str]]:
        """(path, result id) of the newest image of each name with one of these stems (paths below the folder, without extension)."""
        self._forget()
        if not len(self._stems):
            return []
        keys = [stem_hash(camera, stem + b".x") for stem in stems]
        known = await self._readers.beside(len(keys), lambda: self._stems.found(keys))
        if not known:
            return []
        wanted = {keys[index] for index in known}

        def read(connection: sqlite3.Connection) -> list[tuple[bytes, str]]:
            newest: dict[bytes, str] = {}
            for key in wanted:
                for path, id_ in connection.execute(
                    # An image that was renamed since is known under its newest name.
                    "SELECT coalesce((SELECT s.path FROM landing s WHERE s.same_as = l.landing ORDER BY s.landing DESC LIMIT 1), l.path), "
                    "l.id FROM awaiting a JOIN landing l ON l.landing = a.landing WHERE a.stem = ? AND a.until >= ? AND l.camera = ? "
                    "AND l.id IS NOT NULL ORDER BY a.landing",
                    (key, self.age(), camera),
                ):
                    newest[bytes(path)] = str(UUID(bytes=id_))
            return list(newest.items())

        return await self._readers.run(read)

    def _forget(self) -> None:
        """The stems that nobody awaits any more, as far as the writer has told."""
        while self._over:
            self._stems.drop(self._over.popleft())
