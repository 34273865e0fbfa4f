"""Files that are gone, written without waiting for each: somebody who empties a folder of 100,000 images must not stall it.

Invariants
- They are written in the order in which they were told, before anything that is recorded afterwards.
- At most `PENDING` wait for a commit; who tells of more waits.
- What could not be written is written later; until then, or if we are killed, a file counts as still there, which loses nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from edged.errors import Unavailable
from edged.failpoints import reach
from edged.ledger import recall
from edged.ledger.known import KnownKeys
from edged.ledger.writer import Writer

PENDING: Final = 512


class Vanishing:
    def __init__(self, writer: Writer, wall: Callable[[], float]) -> None:
        self._writer, self._wall = writer, wall
        self._pending: deque[asyncio.Future[list[int]]] = deque()
        self._again: list[tuple[str, bytes]] = []
        self.known = KnownKeys()

    async def tell(self, camera: str, path: bytes) -> None:
        self._submit(camera, path)
        if len(self._pending) > PENDING:
            await asyncio.wait({self._pending[0]})

    async def settled(self) -> None:
        """When everything told so far is written."""
        if self._pending:
            await asyncio.wait({self._pending[-1]})

    def retry(self) -> None:
        """What a disk that was away has refused."""
        again, self._again = self._again, []
        for camera, path in again:
            self._submit(camera, path)

    def _submit(self, camera: str, path: bytes) -> None:
        def run(connection: sqlite3.Connection) -> list[int]:
            return recall.vanished(connection, camera, path, self._wall())

        future = self._writer.submit(run)
        self._pending.append(future)
        future.add_done_callback(partial(self._done, camera, path))

    def _done(self, camera: str, path: bytes, future: asyncio.Future[list[int]]) -> None:
        self._pending.remove(future)  # nearly always the first
        if future.cancelled():
            return
        error = future.exception()
        if isinstance(error, Unavailable):
            self._again.append((camera, path))
        elif error is not None:
            raise error  # nobody awaits it: the loop's handler ends the daemon
        else:
            reach("vanished.told", path)
            for key in future.result():
                self.known.drop(key)
