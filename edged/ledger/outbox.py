"""The outbox: what is to be delivered, and what became of it. The plant's publisher drains it.

Invariants
- A message leaves only as delivered; every other state can be sent again.
- Two lanes by a mark: rows above it are fresh, rows up to it are backlog. Within a lane rows come in the order of their numbers.
- Answers ride in the writer's next group commit. A change of many rows goes in pieces, so that a verdict never waits for it.
- A disk that is away for a while makes its callers wait, never fail: what the broker has said is not forgotten. A closed ledger raises.
- The MES's word counts only for what was accepted, or is on its way: a forged one can make nothing unsent count as delivered.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from edged.errors import Unavailable
from edged.ledger import outgoing, read
from edged.ledger.acknowledgement import PIECE, Word, settle, settle_early
from edged.ledger.outgoing import Lane
from edged.ledger.reading import Readers
from edged.ledger.record import Recorder
from edged.ledger.writer import Writer
from edged.nouns import OutboxRow

T = TypeVar("T")
Announcement = tuple[str, Mapping[str, Any]]
"""Kind and data of an event."""
RESEND_CAP_S: Final = 600.0
RETRY_S: Final = 0.5

Also = Callable[[sqlite3.Connection, int], None]
"""What is written in the same transaction as a change, given how many rows it changed."""


class Outbox:
    """`fresh` is set after each commit; it is a hint. `generation` grows when earlier rows have become due again."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        recorder: Recorder,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._writer, self._readers, self._recorder = writer, readers, recorder
        self._monotonic, self._wall = monotonic, wall
        self.fresh = asyncio.Event()
        self.generation = 0

    async def mark(self) -> int:
        """The newest row: what is there by now is backlog."""
        return await self._read(outgoing.newest)

    async def due(self, lane: Lane, limit: int, after: int, mark: int) -> list[OutboxRow]:
        """Rows of a lane behind row `after`, at most `limit`, by number."""
        return await self._read(lambda c: outgoing.due(c, lane, limit, after, mark))

    async def delivered(self, rows: Sequence[int]) -> None:
        sql = "UPDATE outbox SET state = 4, at = ? WHERE message = ? AND sink = 'mqtt' AND state < 4"
        await self._change((sql, [(self._wall(), row) for row in rows]))

    async def accepted(self, rows: Sequence[int], ack_timeout_s: float) -> None:
        """The broker has them; without the MES's word each is sent again after a while that doubles up to 600 s."""
        now, at = self._monotonic(), self._wall()
        sql = (
            "UPDATE outbox SET state = 1, attempts = attempts + 1, at = ?, sent_at = ?, "
            "resend_at = ? + min(?, ? * (1 << min(attempts, 8))) WHERE message = ? AND sink = 'mqtt' AND state IN (0, 2)"
        )
        await self._change((sql, [(at, now, now, RESEND_CAP_S, ack_timeout_s, row) for row in rows]))

    async def lost(self, rows: Sequence[int]) -> None:
        """The connection went while they were in flight."""
        sql = "UPDATE outbox SET attempts = attempts + 1 WHERE message = ? AND sink = 'mqtt'"
        await self._change((sql, [(row,) for row in rows]))

    async def struck(self, row: int) -> int:
        """The connection went while this row was alone in flight; returns how often that has happened."""
        sql = "UPDATE outbox SET strikes = strikes + 1 WHERE message = ? AND sink = 'mqtt' RETURNING strikes"
        return await self._write(lambda c: int((c.execute(sql, (row,)).fetchall() or [(0,)])[0][0]))

    async def park(self, rows: Sequence[int], reason: str, announce: Announcement | None) -> None:
        """Puts rows aside and says so, in one transaction."""
        sql = "UPDATE outbox SET state = 3, at = ?, reason = ? WHERE message = ? AND sink = 'mqtt' AND state < 4"
        await self._change((sql, [(self._wall(), reason, row) for row in rows]), announce=announce)

    async def unpark(self, also: Also | None = None) -> int:
        """Everything that is parked by now is sent once more; returns how many. `also` is written with the first piece, given how many."""
        newest = await self.mark()
        sql = (
            "UPDATE outbox SET state = 0, strikes = 0, reason = NULL WHERE sink = 'mqtt' AND message IN (SELECT message FROM outbox "
            "WHERE sink = 'mqtt' AND state = 3 AND state < 4 AND message > ? AND message <= ? ORDER BY message LIMIT ?) RETURNING message"
        )

        def piece(connection: sqlite3.Connection, after: int) -> list[tuple[int]]:
            if also is not None and not after:
                count = "SELECT count(*) FROM outbox WHERE sink = 'mqtt' AND state = 3 AND state < 4 AND message <= ?"
                also(connection, connection.execute(count, (newest,)).fetchone()[0])
            return connection.execute(sql, (after, newest, PIECE)).fetchall()

        # Behind the last piece: the publisher may have parked again what the pieces before it held.
        total, last = 0, 0
        while rows := await self._write(lambda c, after=last: piece(c, after)):  # type: ignore[misc]
            total, last = total + len(rows), max(row for (row,) in rows)
            self._due_again()
        return total

    async def parked(self) -> tuple[int, str]:
        """How many rows are put aside, and topic and reason of the newest."""
        return await self._read(outgoing.parked)

    async def republish(self, id_: str, also: Also | None = None) -> bool:
        """Sends a result's message once more: same id, same body."""
        sql = (
            "UPDATE outbox SET state = 0, strikes = 0, reason = NULL, replay = 1 "
            "WHERE sink = 'mqtt' AND message = (SELECT message FROM result WHERE id = ?)"
        )
        return await self._again(sql, (read.uuid_bytes(id_),), also) > 0

    async def parked_rows(self, after: str | None, limit: int) -> tuple[list[read.Facts], str | None]:
        """Oldest first, each with its reason, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
        return await self._readers.run(lambda c: read.parked(c, after, limit))

    async def held_topics(self) -> tuple[str, ...]:
        return await self._read(outgoing.held_topics)

    async def hold(self, topic: str, rows: Sequence[int], announce: Announcement | None) -> None:
        """Nobody subscribes: these rows wait, and so does what is recorded from now on for the topic."""
        held = "UPDATE topic SET held_since = ? WHERE name = ? AND held_since IS NULL"
        waits = "UPDATE outbox SET state = 2 WHERE message = ? AND sink = 'mqtt' AND state = 0"
        await self._change((held, [(self._wall(), topic)]), (waits, [(row,) for row in rows]), announce=announce)

    async def probe(self, topic: str) -> OutboxRow | None:
        """The oldest held row of a topic."""
        return await self._read(lambda c: outgoing.probe(c, topic))

    async def release(self, topic: str, announce: Announcement | None) -> None:
        """Somebody subscribes: its rows are due again."""
        await self._change(("UPDATE topic SET held_since = NULL WHERE name = ?", [(topic,)]), announce=announce)
        sql = (
            "UPDATE outbox SET state = 0 WHERE sink = 'mqtt' AND message IN (SELECT message FROM outbox WHERE state = 2 "
            "AND topic = (SELECT topic FROM topic WHERE name = ?) ORDER BY message LIMIT ?)"
        )
        while await self._again(sql, (topic, PIECE)):
            pass

    async def expire(self, *, everything: bool = False) -> int:
        """Accepted rows without the MES's word in time, or all of them, are due again; returns how many."""
        now = self._monotonic()
        # A time too far ahead was written before this machine was started.
        sql = (
            "UPDATE outbox SET state = 0 WHERE sink = 'mqtt' AND message IN (SELECT message FROM outbox "
            "WHERE state = 1 AND (resend_at <= ? OR resend_at > ?) LIMIT ?)"
        )
        values = (now, now if everything else now + RESEND_CAP_S, PIECE)
        total = 0
        while count := await self._again(sql, values):
            total += count
        return total

    async def acknowledge(
        self,
        epoch: str,
        kind: str,
        up_to: int,
        missing: Sequence[tuple[int, int]],
        *,
        ack_timeout_s: float,
        in_flight: Sequence[int] = (),
    ) -> int:
        """The MES's word; returns how many rows it delivered. `missing`: ranges of numbers that did not arrive."""
        word, total, after = Word(epoch, kind, up_to, missing), 0, -1
        while True:
            now, at = self._monotonic(), self._wall()
            last, done, again = await self._write(
                lambda c, a=after, n=now, w=at: settle(c, word, a, now=n, at=w, ack_timeout_s=ack_timeout_s)  # type: ignore[misc]
            )
            total += done
            if again:
                self._due_again()
            if last is None:
                break
            after = last
        if in_flight:
            total += await self._write(lambda c: settle_early(c, word, in_flight, self._wall()))
        return total

    async def _write(self, run: Callable[[sqlite3.Connection], T]) -> T:
        return await self._patiently(lambda: self._writer.submit(run))

    async def _read(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        return await self._patiently(lambda: self._readers.run(ask))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except Unavailable:
                if self._writer.closed:
                    raise
                await asyncio.sleep(RETRY_S)  # the writer says in health what is wrong, and probes by itself

    async def _change(self, *changes: tuple[str, Sequence[tuple[Any, ...]]], announce: Announcement | None = None) -> None:
        """Statements, each for all of its values, and the event of them, in one transaction."""

        def run(connection: sqlite3.Connection) -> None:
            for sql, values in changes:
                connection.executemany(sql, values)
            if announce is not None:
                self._recorder.announce(connection, *announce)

        await self._write(run)

    async def _again(self, sql: str, values: tuple[Any, ...], also: Also | None = None) -> int:
        """A change that makes rows due; the publisher reads from the beginning again. `also` is written with it, given how many."""

        def run(connection: sqlite3.Connection) -> int:
            count = connection.execute(sql, values).rowcount
            if also is not None and count:
                also(connection, count)
            return count

        count = await self._write(run)
        if count:
            self._due_again()
        return count

    def _due_again(self) -> None:
        self.generation += 1
        self.fresh.set()
