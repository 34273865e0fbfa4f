"""What waits to be written, from the loop to the writer's thread, and how a group of it becomes one transaction."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from edged.errors import Unavailable
from edged.failpoints import reach
from edged.ledger.connection import translated

T = TypeVar("T")
GROUP: Final = 512
HINT: Final = "Images wait in their folders; the daemon goes on by itself once the ledger can be written."


@dataclass(slots=True)
class Job(Generic[T]):
    """`run` gives the answer, in the writer's thread; `future` is the loop's."""

    run: Callable[[sqlite3.Connection], T]
    future: asyncio.Future[T]
    answer: T | None = None
    error: BaseException | None = None


class Jobs:
    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()

    def put(self, job: Job[Any]) -> None:
        self._waiting.put(job)

    def end(self) -> None:
        """Nothing comes after what is there."""
        self._waiting.put(None)

    def group(self, wait_s: float) -> tuple[list[Job[Any]], bool]:
        """All that wait, at most `GROUP`; for the first one `wait_s` long. And whether that was the last group."""
        jobs: list[Job[Any]] = []
        try:
            job = self._waiting.get(timeout=wait_s)
            while job is not None:
                jobs.append(job)
                if len(jobs) == GROUP:
                    return jobs, False
                job = self._waiting.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True


def commit(connection: sqlite3.Connection, jobs: list[Job[Any]], path: Path) -> None:
    """One transaction for all of them; one that fails has its error, and takes nobody with it. sqlite3.Error, Unavailable: nothing is
    written."""
    if not _together(connection, jobs, path):
        _one_by_one(connection, jobs, path)


def _together(connection: sqlite3.Connection, jobs: list[Job[Any]], path: Path) -> bool:
    """The common case, without savepoints; False: one of them failed, and nothing was done."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in jobs:
            job.answer = job.run(connection)
    except Exception as error:  # noqa: BLE001 - handed to its caller, who waits for it
        _raise_if_of_the_disk(connection, error, path)
        connection.execute("ROLLBACK")
        return False
    _commit(connection)
    return True


def _one_by_one(connection: sqlite3.Connection, jobs: list[Job[Any]], path: Path) -> None:
    """Each in a savepoint of its own, so that the one that fails takes nobody with it."""
    connection.execute("BEGIN IMMEDIATE")
    for job in jobs:
        connection.execute("SAVEPOINT job")
        try:
            job.answer = job.run(connection)
        except Exception as error:  # noqa: BLE001 - handed to its caller, who waits for it
            _raise_if_of_the_disk(connection, error, path)
            connection.execute("ROLLBACK TO job")
            job.error = error
        connection.execute("RELEASE job")
    _commit(connection)


def _raise_if_of_the_disk(connection: sqlite3.Connection, error: Exception, path: Path) -> None:
    """Nobody's fault, and everybody's: SQLite may have given the whole transaction up."""
    if isinstance(error, sqlite3.Error) and (translated(error, path) is not None or not connection.in_transaction):
        raise error
    if not connection.in_transaction:
        raise Unavailable("the ledger", f"the transaction was given up ({error})", HINT) from error


def _commit(connection: sqlite3.Connection) -> None:
    reach("ledger.uncommitted")
    connection.execute("COMMIT")
    reach("ledger.committed")
