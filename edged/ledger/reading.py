"""A few threads that read: each with a read-only connection of its own, so that no question waits for the writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger.connection import open_reader, translated
from edged.ledger.rebuild import distrust
from edged.threads import warm_pool

T = TypeVar("T")
INLINE: Final = 512
"""So many names are looked up in the loop."""


class Readers:
    def __init__(self, path: Path, threads: int = 2) -> None:
        self._path = path
        self._pool = warm_pool(threads, "ledger-reader")
        self._local = threading.local()
        self.fault: LedgerCorrupt | None = None
        self._opened: list[sqlite3.Connection] = []

    async def run(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """Unavailable or LedgerCorrupt when the file does not read."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, ask)

    async def beside(self, count: int, look: Callable[[], T]) -> T:
        """What memory says of `count` names: of a few at once, of many in a thread, so that the loop goes on."""
        return look() if count <= INLINE else await self.run(lambda _: look())

    def _ask(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return ask(self._connection())
        except sqlite3.Error as error:
            # Rather a new connection than one that may be confused by what happened to the file.
            self._drop()
            known: LedgerCorrupt | Unavailable | None = translated(error, self._path)
            if isinstance(known, LedgerCorrupt):
                self.fault = known
                distrust(self._path)
            raise known or error from None

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        seen = self._seen()
        if connection is not None and seen != self._local.seen:
            self._drop()  # the disk was mounted anew beneath us: what is open is the old one's file, where nothing changes any more
            connection = None
        if connection is None:
            connection = open_reader(self._path)
            self._local.connection, self._local.seen = connection, seen
            self._opened.append(connection)
        return connection

    def _seen(self) -> tuple[int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None  # opening it says why
        return facts.st_dev, facts.st_ino

    def _drop(self) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._opened.remove(connection)
            connection.close()

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown)
        for connection in self._opened:
            connection.close()
