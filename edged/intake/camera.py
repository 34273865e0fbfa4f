"""One camera: its loop from hints and listings to landings, what becomes of them, and what it says of itself.

    inotify --hint--> \\
                       examiner --Landing--> outgoing --> channel ... pipeline ... --> done --> aftermath
    poll ----names--> /

Invariants
- The poll finds everything; hints only make it quicker. The loop never waits for a folder other than its own.
- A folder or a ledger that is away ends nothing: the loop says so in health, waits, lists everything when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from edged.channel import Channel
from edged.config import Camera, Recipe
from edged.errors import Unavailable
from edged.intake.aftermath import Aftermath
from edged.intake.disposal import Disposal
from edged.intake.events import Events
from edged.intake.examiner import Examiner
from edged.intake.folder import Folder
from edged.intake.gate import Gate
from edged.intake.judged import Judged
from edged.intake.keeping import Keeping
from edged.intake.known import LISTED, stamp
from edged.intake.latecomers import Latecomers
from edged.intake.outgoing import Landings, Outgoing
from edged.intake.quarantine import Quarantine
from edged.intake.recall import Announce, Recall
from edged.intake.report import health
from edged.intake.selection import Selection
from edged.intake.thread import FolderThread
from edged.intake.tree import Tree
from edged.intake.watches import MAX_HINTS, Hint, Watches
from edged.nouns import Board, Landing, LateSidecar, Recorded

log = structlog.get_logger("edged.intake")
PUT_BACK_S = 0.25


class CameraIntake:
    """Wires one camera's parts; `held`, `announce`, `board` as in Intake."""

    def __init__(
        self,
        camera: Camera,
        selection: Selection,
        *,
        recipes: Mapping[str, Recipe],
        landings: Landings,
        recall: Recall,
        late: Channel[LateSidecar],
        gate: Gate,
        held: Callable[[str, str], bool],
        quarantine: Quarantine,
        board: Board,
        announce: Announce,
        utcnow: Callable[[], datetime],
        stall_s: float,
    ) -> None:
        self.camera, self._board, self.utcnow = camera, board, utcnow
        self._asked, self.gate = held, gate
        self.events = Events(announce)
        self.folder = Folder(camera, selection, FolderThread(camera.name, self._on_stall, stall_s))
        self.outgoing = Outgoing(camera.name, landings, self._held)
        self.examiner = Examiner(self.folder, recipes, recall, self.outgoing, self.events.tell, utcnow)
        self.latecomers = Latecomers(self.folder, recall, self.outgoing, late)
        self.watches = Watches(self.folder, self._wake)
        self.tree = Tree(self.folder, self.watches, self.examiner, self._between)
        self.examiner.names = self.tree
        self.tree.company = self.latecomers
        disposal = Disposal(camera, utcnow, self.folder.thread.tick)
        self.aftermath = Aftermath(self.folder, disposal, quarantine, recall, self.outgoing, self, self.events.tell)
        self.judged = Judged(self.folder, disposal, quarantine, self.aftermath)
        self.keeping = Keeping(camera, self.folder.thread, quarantine, self.aftermath)
        self._woken = asyncio.Event()
        self._next_poll = 0.0
        self.away: Unavailable | None = None
        self.stalled_since: datetime | None = None
        self._lies_logged = False
        self._ended = False

    # --- the loop

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; landings that were sent are settled by `done` and `put_back` even after that."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._watch(), name=f"watch-{self.camera.name}"),
                    group.create_task(self.outgoing.run(), name=f"send-{self.camera.name}"),
                    group.create_task(self.events.run(), name=f"tell-{self.camera.name}"),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self.watches.close()
            self._ended = True
            await self.events.flush()

    async def _watch(self) -> None:
        while True:
            try:
                await self._round()
            except Unavailable as error:
                await self._is_away(error)

    async def _round(self) -> None:
        if time.monotonic() >= self._next_poll:
            await self._poll()
            self._next_poll = time.monotonic() + self.camera.poll_s
        self._woken.clear()
        if await self._turn():
            await asyncio.sleep(0)  # the loop's other tasks get their turn
            return
        wait_s = min(self._next_poll, self.examiner.next_due(), self.latecomers.next_due()) - time.monotonic()
        # Not wait_for: in Python 3.11 it forgets a cancellation that comes together with the event, and the end would wait for ever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.001)):
                await self._woken.wait()

    async def _poll(self) -> None:
        began = time.monotonic()
        if self.examiner.first_pass:
            await self._begin()
        await self.tree.poll()
        self.examiner.misfits.tell_vanished(began)
        self.examiner.retry_unreadable()
        self.examiner.first_pass = False
        if self.away is not None or self.aftermath.undone:
            await self.aftermath.resume()
        self.away = None
        if self.tree.mtimes_lie and not self._lies_logged:
            self._lies_logged = True
            log.warning("intake.directory_mtime_unreliable", camera=self.camera.name, hint="Every poll now lists the whole folder.")
        await self.keeping.turn()
        self._report()

    async def _begin(self) -> None:
        """Before the first listing: the folder must be there, so that a share not mounted yet is not taken for an empty folder."""
        await self.folder.check()
        await self.gate.enter(self.folder.mount.point if self.folder.mount else "")
        self.tree.list_all()
        await self.examiner.baseline.begin()
        await self.aftermath.resume()

    async def _between(self) -> None:
        """Between the pieces of a long listing."""
        await self._turn()
        await asyncio.sleep(0)

    async def _turn(self) -> bool:
        """True when there is more to do at once."""
        examiner = self.examiner
        for path, detected in self.outgoing.released(max(0, examiner.room() - len(examiner.fresh))):
            examiner.first_seen[path] = detected
            examiner.fresh.setdefault(path, Hint.SEEN)
        if self.watches.lost or self.watches.directories_changed:
            self._next_poll = 0.0
            if self.watches.lost:
                self.tree.list_all()
            self.watches.lost = self.watches.directories_changed = False
        company = False
        for path, hint in self.watches.take(max(0, MAX_HINTS - len(examiner.fresh))).items():
            if self.folder.selection.why_not(path) is None or path in examiner.misfits.odd:
                examiner.fresh[path] = hint
            else:
                self.latecomers.hint(path)
                company = True
        if company:
            examiner.company_came()
        more = await examiner.turn()
        await self.latecomers.turn()
        if examiner.baseline.under_way and not examiner.first_pass and not examiner.baseline.names:
            await examiner.baseline.end()
        return more

    async def _is_away(self, error: Unavailable) -> None:
        """Folder or ledger: wait, then begin again with a full listing."""
        if error.what == self.folder.what:
            self.away = error
        self.watches.disarm_all()
        self.tree.start_over()
        self._report()
        self._next_poll = 0.0
        await asyncio.sleep(min(self.camera.poll_s, 2.0))

    def _wake(self) -> None:
        self._woken.set()

    # --- paused and resumed

    def _held(self, camera: str, recipe: str) -> bool:
        return self.gate.pause is not None or self._asked(camera, recipe)

    async def pause(self, by: str) -> None:
        """Nothing is sent from now on. Raises Unavailable: the ledger is away, and nothing has changed."""
        await self.gate.set_pause(by)
        self._report()

    async def resume(self) -> None:
        await self.gate.lift(self.folder.mount.point if self.folder.mount else "")
        self._report()
        self._wake()

    # --- what becomes of landings

    def put_back(self, landing: Landing) -> None:
        """Not judged: it waits in the folder, and is looked at afresh when its recipe is not held."""
        if self.outgoing.finish(landing) is None:
            return
        if self._held(self.camera.name, landing.recipe):
            known, name = self.tree.known_of(landing.path)
            known.put(name, LISTED)
            self.outgoing.park(landing)
        else:
            self.examiner.return_to(landing.path, landing.detected, time.monotonic() + PUT_BACK_S)
        self._wake()

    async def done(self, landing: Landing, recorded: Recorded) -> None:
        known, name = self.tree.known_of(landing.path)
        known.put(name, stamp(landing.size, landing.mtime_ns))
        flight = self.outgoing.flights.get(landing.path)
        await self.aftermath.done(landing, recorded)
        if flight is not None and flight.touched:
            self.look_again(landing.path)
        await self._flush_at_end()

    async def vanished(self, landing: Landing) -> None:
        """It was gone when it should have been read."""
        if self.outgoing.finish(landing) is not None:
            self.look_again(landing.path)
            self.events.tell("vanished", {"camera": self.camera.name, "file": landing.name, "cause": "it was gone before it could be read"})
        await self._flush_at_end()

    async def _flush_at_end(self) -> None:
        """The last images end after the loop has."""
        if self._ended:
            await self.events.flush()

    def left(self, path: bytes) -> None:
        """We took the file away ourselves; only a look can tell whether a new one has its name already."""
        known, name = self.tree.known_of(path)
        known.drop(name)

    def look_again(self, path: bytes) -> None:
        self.examiner.fresh.setdefault(path, Hint.SEEN)
        self._wake()

    # --- what it says

    def _on_stall(self, since: float | None) -> None:
        stalled_s = time.monotonic() - since if since is not None else 0.0
        self.stalled_since = self.utcnow() - timedelta(seconds=stalled_s) if since is not None else None
        if since is not None:
            self.events.tell("folder-stalled", {"camera": self.camera.name, "folder": str(self.camera.folder)})
        self._report()

    def _report(self) -> None:
        status, cause, hint = health(self)
        facts = {"mode": self.folder.mode.value, "reconcile_took_s": round(self.tree.reconcile_took_s, 3)}
        self._board.report(self.folder.what, status, cause, hint, **facts)


def utc() -> datetime:
    return datetime.now(UTC)
