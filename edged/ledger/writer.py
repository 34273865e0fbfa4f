"""The one thread that writes: group commit, and getting over a disk that fails.

Invariants
- Only this thread uses the write connection. A job runs in it, twice if another of its group fails; one that fails takes nobody with it.
- Everything queued while the last commit was synced goes into the next transaction. A job's answer leaves after that commit, never before.
- After an error of the disk nothing is answered with success: the whole group is refused, the connection is closed, and the next one first
  writes the log back into the file (a failed sync may have marked pages clean that never reached the disk).
- A file that is found damaged is never written again; `fault` then says so, and whoever runs the ledger ends: the next start rebuilds.
- While the disk is away it is probed, so that health turns well again without anybody writing.
- `beat` stands still while the disk hangs: whoever must not wait for it can tell.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger.connection import open_writer, translated
from edged.ledger.jobs import HINT, Job, Jobs, commit
from edged.ledger.mark import Mark
from edged.ledger.rebuild import distrust
from edged.ledger.wal import Wal
from edged.nouns import Board, HealthStatus

T = TypeVar("T")

TICK_S: Final = 1.0
_DISK: Final = (sqlite3.Error, OSError, MemoryError, Unavailable, LedgerCorrupt)
"""What opening, committing and probing may raise; what a job raises is its own, unless SQLite says so."""


class Writer:
    """`committed()` is called in the loop after each commit, `tick(connection)` in the thread once a second, outside a transaction;
    `look()` before it, whether the file is well or not; `refused(error)` when the disk would not take something."""

    def __init__(
        self,
        path: Path,
        board: Board,
        *,
        committed: Callable[[], None] = lambda: None,
        tick: Callable[[sqlite3.Connection], None] = lambda _: None,
        look: Callable[[], None] = lambda: None,
        refused: Callable[[Exception], None] = lambda _: None,
        tick_s: float = TICK_S,
    ) -> None:
        self._path, self._board, self._committed, self._tick, self._look, self._tick_s = path, board, committed, tick, look, tick_s
        self._refused = refused
        self._jobs = Jobs()
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.fault: Exception | None = None
        self.beat = time.monotonic()
        self.trouble: tuple[str, str] | None = None
        """Cause and hint while the file cannot be written."""
        self._under_way: list[Job[Any]] = []
        self._mark = Mark(path)
        self._wal = Wal(path)
        self._worked = False

    def start(self, first: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        """Opens the file, so that its errors are the caller's, lets `first` look at it, and starts the thread."""
        self._connection = open_writer(self._path)
        first(self._connection)
        self._mark.note(self._connection)
        self._board.report("ledger", HealthStatus.OK)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def submit(self, run: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """The answer of `run` once it is committed. Unavailable, LedgerCorrupt, or whatever `run` raised."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self.fault is not None:
            future.set_exception(self.fault)
        elif self._closed:
            future.set_exception(Unavailable("the ledger", "it is closed", HINT))
        else:
            self._jobs.put(Job(run, future))
        return future

    async def close(self, last: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        """What is queued is still written, then what `last` writes."""
        written: asyncio.Future[None] = self._loop.create_future()
        written.add_done_callback(lambda done: done.exception())  # a full disk keeps nobody from ending
        self._jobs.put(Job(last, written))
        self._closed = True
        self._jobs.end()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        well = False
        try:
            self._work()
            well = True
        finally:
            # After an exception that nobody expected nobody may wait for ever: each caller gets an error, and the daemon ends.
            self._closed = True
            if not well:
                self.fault = RuntimeError("the ledger's writer has ended")
            left, done = self._under_way, False
            while not done:
                jobs, done = self._jobs.group(0.0)
                left, done = left + jobs, done or not jobs
            for job in left:
                job.error = RuntimeError("the ledger's writer has ended")
            if left:
                self._loop.call_soon_threadsafe(self._answer, left)

    def _work(self) -> None:
        ticked = time.monotonic()
        while True:
            self.beat = time.monotonic()
            jobs, last = self._jobs.group(max(0.0, ticked + self._tick_s - time.monotonic()))
            if jobs:
                self._under_way = jobs
                self._group(jobs)
                self._under_way = []
            now = time.monotonic()
            if now - ticked >= self._tick_s:
                self._idle()
                ticked = time.monotonic()
            self._checkpoint()
            if last:
                break
        if self._connection is not None:
            self._connection.close()
        self._mark.close()

    def _group(self, jobs: list[Job[Any]]) -> None:
        """One transaction for all of them, then one hop into the loop."""
        try:
            connection = self._connection or self._reopened()
            commit(connection, jobs, self._path)
            self._mark.note(connection)
            self._wal.grew(connection)
            self._worked = True
        except _DISK as error:
            self._failed(jobs, error)
        self._loop.call_soon_threadsafe(self._answer, jobs)

    def _told(self, error: Exception) -> Exception:
        """As an error of ours, where the disk or the memory is to blame."""
        if isinstance(error, sqlite3.Error):
            return translated(error, self._path) or error
        if isinstance(error, OSError | MemoryError):
            return Unavailable("the ledger", str(error) or "there is no memory left", HINT)
        return error

    def _answer(self, jobs: list[Job[Any]]) -> None:
        if any(job.error is None for job in jobs):
            self._committed()
        for job in jobs:
            if job.future.done():
                continue  # its caller was cancelled; the row is there all the same
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.answer)

    def _failed(self, jobs: list[Job[Any]], raised: Exception) -> None:
        """Nothing of the group counts. The connection is not trusted again."""
        error = self._told(raised)
        for job in jobs:
            job.error = error
        if isinstance(error, LedgerCorrupt):
            self.fault = error
            distrust(self._path)
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as late:
                error.add_note(f"closing it failed too: {late}")
        self._refused(raised)
        self.trouble = (f"The ledger cannot be written: {getattr(error, 'cause', error)}.", getattr(error, "hint", "") or HINT)
        self._board.report("ledger", HealthStatus.DOWN, *self.trouble)

    def _reopened(self) -> sqlite3.Connection:
        if self.fault is not None:
            raise self.fault  # a damaged file is left as it is
        connection = open_writer(self._path)
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:  # what is added to a log that may not be on the disk could not be read after a power cut
                raise Unavailable("the ledger", "after a failed write its log must be written back, and somebody reads it", HINT)
        except (sqlite3.Error, Unavailable):
            connection.close()
            raise
        self._connection = connection
        self._wal.opened()
        return connection

    def _idle(self) -> None:
        """Once a second: the tick; while the disk is away a small write is the probe."""
        self._look()
        try:
            connection = self._connection
            if connection is None:
                connection = self._reopened()
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('recovered', ?)", (time.time(),))
            self._tick(connection)
            self._mark.sync()
            self._wal.write_back(connection, idle=not self._worked)
            self._worked = False
        except _DISK as error:
            self._failed([], error)
        else:
            self.trouble = None
            self._board.report("ledger", HealthStatus.OK)

    def _checkpoint(self) -> None:
        if self._connection is None:
            return
        try:
            self._wal.write_back(self._connection)
        except _DISK as error:
            self._failed([], error)
