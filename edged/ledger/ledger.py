"""The ledger: every landing recorded once, every verdict kept until the plant has it.

Invariants
- What `record` and `announce` have returned is on disk; what raised is not, or is found known at the next try.
- One thread writes (`writer.py`), some read; the event loop never waits for the disk.
- The keys of known files in memory follow the commits; one that is missing there costs work, never an image.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from edged.config import Ledger as LedgerConfig
from edged.errors import Unavailable
from edged.failpoints import reach
from edged.ledger import recall
from edged.ledger.answers import Answers
from edged.ledger.audit import Audit
from edged.ledger.cameras import Cameras
from edged.ledger.connection import FILE
from edged.ledger.identity import landing_hash
from edged.ledger.known import KnownKeys
from edged.ledger.late import Late
from edged.ledger.outbox import Outbox
from edged.ledger.place import lock, locked_still, prepare
from edged.ledger.reading import Readers
from edged.ledger.rebuild import ready
from edged.ledger.record import Recorder
from edged.ledger.rejudgement import Rejudgements
from edged.ledger.retention import AgeClock, Retention
from edged.ledger.space import HINT as ROOM_HINT
from edged.ledger.space import Space
from edged.ledger.vanishing import Vanishing
from edged.ledger.watch import Watch
from edged.ledger.writer import TICK_S, Writer
from edged.nouns import Board, Composer, PageResult, Recorded

log = structlog.get_logger("edged.ledger")

TURN_S: Final = 1.0
"""So often it is seen whether somebody found damage, and whether what could not be written can be."""


class Ledger(Answers):
    """Made by `open`. `epoch` belongs to the file. Doors: `outbox` the publisher's, `cameras` intake's second, `audit` who changed what."""

    def __init__(
        self,
        state_dir: Path,
        config: LedgerConfig,
        composer: Composer,
        board: Board,
        *,
        source: str,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        tick_s: float = TICK_S,
    ) -> None:
        path = self._path = state_dir / FILE
        self._config = config
        self._space = Space(state_dir, config.min_free_bytes, board, monotonic=monotonic)
        space = self._space
        self._writer = Writer(
            path, board, committed=self._committed, tick=self._tick, look=space.look, refused=space.refused, tick_s=tick_s
        )
        super().__init__(Readers(path), monotonic=monotonic, wall=wall)
        self._recorder = Recorder(source, composer, wall=wall)
        self._lock = -1
        self._age: AgeClock
        self._retention: Retention
        self._vanishing = Vanishing(self._writer, wall)
        self._watch = Watch(self._writer, space, board, self.announce, monotonic=monotonic, wall=wall)
        self.epoch = ""
        self.audit = Audit(self._writer, self._readers, self._recorder, wall)
        self.cameras = Cameras(self._writer, self._readers, wall)
        self.rejudgements = Rejudgements(self._writer, self._readers, self._recorder, self.audit, source=source, wall=wall)
        self.late = Late(self._readers)
        self.outbox = Outbox(self._writer, self._readers, self._recorder, monotonic=monotonic, wall=wall)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, state_dir: Path, config: LedgerConfig, composer: Composer, board: Board, *, source: str, **clocks: Any
    ) -> AsyncIterator[Ledger]:
        """Unavailable: locked, not writable, newer; ConfigError: a network file system.

        A file that does not read is set aside and rebuilt (`rebuild.py`), with an event that says what is lost.
        """
        prepare(state_dir)
        descriptor = lock(state_dir)
        try:
            ledger = cls(state_dir, config, composer, board, source=source, **clocks)
            ledger._lock = descriptor
            try:
                await ledger._start()
                yield ledger
            finally:
                await asyncio.shield(ledger._close())
                descriptor = ledger._lock
        finally:
            os.close(descriptor)

    async def _start(self) -> None:
        try:
            facts = await asyncio.to_thread(ready, self._path, self._announce_first)
            self._writer.start(self._first_look)
        except Unavailable as error:
            self._space.refused(error)  # at the next try there is the ballast's room
            raise
        if facts is not None:
            log.warning("ledger.set_aside", **facts)
        # A rejected image may lie here for years: 8 bytes each are read, nothing else.
        sql = "SELECT key FROM landing WHERE gone IS NULL"
        self._vanishing.known = await self._readers.run(lambda c: KnownKeys(key for (key,) in c.execute(sql)))
        await self.late.load()
        await self._count()

    def _announce_first(self, connection: sqlite3.Connection, kind: str, data: Mapping[str, Any]) -> None:
        """Into a new file that is not in its place yet."""
        (self._recorder.epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        self._recorder.announce(connection, kind, data)

    def _first_look(self, connection: sqlite3.Connection) -> None:
        """Before the thread starts."""
        self._age = AgeClock(connection, monotonic=self._monotonic, wall=self._wall)
        self._recorder.age = self.late.age = self._age.now
        self._retention = Retention(
            self._config, self._age, lambda: self._figures.results, lambda: self._space.wanted_bytes, monotonic=self._monotonic
        )
        (self.epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        self._recorder.epoch = self.epoch
        self._space.look()

    async def _close(self) -> None:
        # The writer goes last: only it may write the log back into the file.
        await self._readers.close()
        if self._writer.running:
            await self._writer.close(self._age.save)

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the figures fresh and an eye on the disk until `stop`. LedgerCorrupt, whoever has found the damage: the next start
        rebuilds."""
        fault: Exception | None = None
        async with asyncio.TaskGroup() as group:
            sides = [
                group.create_task(self._keep_counting(), name="ledger-figures"),
                group.create_task(self._watch.run(), name="ledger-watch"),
            ]
            while not stop.is_set() and (fault := self._writer.fault or self._readers.fault) is None:
                self._vanishing.retry()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), TURN_S)
            for side in sides:
                side.cancel()
        if fault is not None:
            raise fault

    def _tick(self, connection: sqlite3.Connection) -> None:
        self._lock = locked_still(self._path.parent, self._lock)
        self._retention.tick(connection)
        self.late.tick(connection)

    def _committed(self) -> None:
        self.outbox.fresh.set()

    async def record(self, pages: Sequence[PageResult]) -> Recorded:
        """All pages of one landing, in one transaction. Unavailable: nothing is recorded, and the image waits."""
        if self._space.short:
            raise Unavailable("the disk", self._space.cause, ROOM_HINT)
        recorded = await self._writer.submit(lambda connection: self._recorder.record(connection, pages))
        landing = pages[0].landing
        self.late.recorded(landing)
        if landing.again is None:  # else the file may be long gone
            self._known.add(landing_hash(landing.camera, landing.path, landing.size, landing.mtime_ns))
        return recorded

    async def announce(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event for the plant, on the same promise as results."""
        await self._writer.submit(lambda connection: self._recorder.announce(connection, kind, data))

    async def known(self, camera: str, seen: Sequence[tuple[bytes, int, int]]) -> set[int]:
        """Indexes of (path, size, mtime_ns) that are recorded and not gone since."""
        await self._vanishing.settled()
        return await self._readers.beside(len(seen), lambda: self._known.found([landing_hash(camera, *each) for each in seen]))

    async def awaiting(self, camera: str, stems: Sequence[bytes]) -> list[tuple[bytes, str]]:
        """(path, result id) of images that were judged without a sidecar of one of these stems, and for which one may still come."""
        return await self.late.awaiting(camera, stems)

    async def first_start(self, camera: str, folder: str, baseline_ns: int | None = None, /) -> bool:
        return await self._writer.submit(lambda c: recall.first_start(c, camera, folder, baseline_ns, self._wall()))

    async def baseline_since(self, camera: str, folder: str, /) -> int | None:
        return await self._readers.run(lambda c: recall.baseline_since(c, camera, folder))

    async def baseline_ended(self, camera: str, /) -> None:
        await self._writer.submit(lambda c: c.execute("UPDATE camera SET baseline_ns = NULL WHERE name = ?", (camera,)).rowcount)

    async def baseline(self, camera: str, seen: Sequence[tuple[bytes, int, int]]) -> None:
        for start in range(0, len(seen), 1000):
            piece = seen[start : start + 1000]
            keys = await self._writer.submit(lambda c, p=piece: recall.baseline(c, camera, p, self._wall(), self._age.now()))  # type: ignore[misc]
            reach("intake.baselined")
            for key in keys:
                self._known.add(key)

    async def vanished(self, camera: str, path: bytes) -> None:
        """It is known no more once that is written; what is recorded after this call already sees it."""
        await self._vanishing.tell(camera, path)

    async def pending_disposal(self, camera: str) -> list[recall.Disposable]:
        """The oldest 256 judged files whose `after` is not told yet, also of those that a scan no longer sees."""
        return await self._readers.run(lambda c: recall.pending_disposal(c, camera))

    async def disposed(self, camera: str, path: bytes, id: str, outcome: str, new_path: str | None) -> None:  # noqa: A002 - the id of the result
        for key in await self._writer.submit(lambda c: recall.disposed(c, camera, path, id, str(outcome), new_path, self._wall())):
            self._known.drop(key)
        reach("disposal.told", path)

    @property
    def _known(self) -> KnownKeys:
        return self._vanishing.known

    def trouble(self) -> str | None:
        """Why nothing can be recorded now; None while it can. From memory, also while the disk hangs."""
        found = self._watch.trouble()
        return None if found is None else found[1]

    @property
    def stalled(self) -> bool:
        """The disk hangs: what waits for it goes on when it answers, and not before."""
        return self._watch.stalled_s > 0

    @property
    def free_bytes(self) -> int | None:
        return self._space.free_bytes
