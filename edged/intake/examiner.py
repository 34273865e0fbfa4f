"""Looks at files until each is settled, gone, or somebody else's: from a name to a Landing.

Invariants
- A file becomes a landing only through `settle.step`, by looks of this run of the daemon.
- What the ledger knows already (path, size, mtime) is asked in batches and remembered as a stamp of 64 bits.
- At most `MAX_CANDIDATES` files are under observation; further names wait in `backlog`, new ones before old ones.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from edged.config import Recipe, WatchMode
from edged.intake.baseline import Baseline
from edged.intake.candidates import Candidate, patience
from edged.intake.company import Company
from edged.intake.folder import Folder
from edged.intake.known import LISTED, KnownNames, stamp
from edged.intake.looking import Sight, Wanted
from edged.intake.misfits import Misfits
from edged.intake.outgoing import Outgoing
from edged.intake.recall import Recall
from edged.intake.settle import Look, Patience, Phase, next_look, step, worth_examining
from edged.intake.watches import Hint

MAX_CANDIDATES = 4096
BATCH = 256
BACKLOG_BATCH = 1000
_GONE = (errno.ENOENT, errno.ENOTDIR)
_GONE_AGAIN_S = 0.25  # some shares show a name for a while that can no longer be opened


class Names(Protocol):
    def known_of(self, path: bytes) -> tuple[KnownNames, str]: ...


class Examiner:
    """One camera's. `tell(kind, data)` queues an event; `utcnow` gives the times people see."""

    def __init__(
        self,
        folder: Folder,
        recipes: Mapping[str, Recipe],
        recall: Recall,
        outgoing: Outgoing,
        tell: Callable[[str, Mapping[str, Any]], None],
        utcnow: Callable[[], datetime],
    ) -> None:
        self._folder, self._recall, self._outgoing, self._utcnow = folder, recall, outgoing, utcnow
        self._camera = folder.camera
        self._company = Company(folder, recipes)
        self.names: Names | None = None
        self.candidates: dict[bytes, Candidate] = {}
        self.backlog: deque[bytes] = deque()
        self.fresh: dict[bytes, Hint] = {}
        self.baseline = Baseline(folder, recall)
        self.first_pass = True
        self.misfits = Misfits(folder.camera.name, tell)
        self.first_seen: dict[bytes, datetime] = {}
        self.last: tuple[bytes, datetime] | None = None

    def taken(self, path: bytes) -> bool:
        return self.observed(path) or path in self.fresh

    async def found(self, paths: Sequence[bytes]) -> None:
        """New names of a listing. What lay there at the start, and what is more than can be watched, waits its turn."""
        if not self.first_pass and len(paths) <= self.room() - len(self.fresh):
            self.fresh.update((path, self.fresh.get(path, Hint.SEEN)) for path in paths)
            return
        for path in paths:
            known, name = self._known(path)
            known.put(name, LISTED)
        (self.baseline.names if self.first_pass and self.baseline.under_way else self.backlog).extend(paths)

    async def revisit(self, paths: Sequence[bytes]) -> None:
        """Known names that are missing or changed."""
        for start in range(0, len(paths), BATCH):
            await self.look(dict.fromkeys(paths[start : start + BATCH], Hint.SEEN))

    @property
    def waiting(self) -> int:
        return len(self.candidates) + len(self.fresh) + len(self.backlog) + len(self.baseline.names)

    def room(self) -> int:
        return MAX_CANDIDATES - len(self.candidates) - self._outgoing.ready

    async def turn(self) -> bool:
        """Look at what is due, new or waiting its turn, a batch of each. True when there is more to do at once."""
        now = time.monotonic()
        due = [candidate.path for candidate in self.candidates.values() if candidate.due <= now][:BATCH]
        if due:
            await self.look(dict.fromkeys(due, Hint.SEEN))
        if self.fresh and (count := min(BATCH, self.room())) > 0:
            batch = {path: self.fresh.pop(path) for path in list(self.fresh)[:count]}
            try:
                await self.look(batch)
            except BaseException:
                self.fresh.update((path, max(hint, self.fresh.get(path, hint))) for path, hint in batch.items())
                raise
        elif (waiting := self.baseline.names or self.backlog) and (count := min(BACKLOG_BATCH, self.room())) > 0:
            batch_old = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            try:
                await self.look(dict.fromkeys(batch_old, Hint.SEEN), waiting)
            except BaseException:
                waiting.extendleft(reversed(batch_old))
                raise
        else:
            return len(due) == BATCH
        return True

    def next_due(self) -> float:
        return min((candidate.due for candidate in self.candidates.values()), default=float("inf"))

    async def look(self, hints: Mapping[bytes, Hint], waiting: deque[bytes] | None = None) -> None:
        """`waiting`: in which they waited their turn. Raises Unavailable: folder or ledger is away; nothing is forgotten then."""
        before = time.monotonic()
        wanted: list[Wanted] = []
        for path, hint in hints.items():
            candidate = self.candidates.get(path)
            if candidate is None:
                wanted.append((path, None))
                continue
            due = worth_examining(candidate.progress, before, self._patience(max(hint, candidate.hint)))
            wanted.append((path, candidate.progress.stamp if due and candidate.progress else None))
        sights = await self._folder.look(wanted)
        after = time.monotonic()
        recorded = await self._recorded(sights, waiting)
        inodes = {sight.stamp[2] for sight in sights if not sight.error}
        for sight in sights:
            if sight.error in _GONE:
                await self._gone(sight.path, inodes)
            elif sight.error or sight.open_error:
                self._unreadable(sight, after)
            elif not sight.regular:
                self._odd(sight)
            elif sight.path in self._outgoing.leaving:
                self._outgoing.leaving[sight.path] = True
            elif (flight := self._outgoing.flights.get(sight.path)) is not None:
                landing = flight.landing
                flight.touched |= sight.stamp != (landing.size, landing.mtime_ns, landing.inode)
            elif sight.path in self.candidates or sight.path not in recorded:
                await self._observe(sight, hints[sight.path], before, after)

    async def _recorded(self, sights: Iterable[Sight], waiting: deque[bytes] | None) -> set[bytes]:
        """Those that need no verdict: known to the ledger, or part of the baseline."""
        asked: list[Sight] = []
        answered: set[bytes] = set()
        for sight in sights:
            if sight.error or not sight.regular or self.observed(sight.path):
                continue
            known, name = self._known(sight.path)
            if known.get(name) == stamp(sight.stamp[0], sight.stamp[1]):
                answered.add(sight.path)
            else:
                asked.append(sight)
        if not asked:
            return answered
        indexes = await self._recall.known(self._camera.name, [(sight.path, *sight.stamp[:2]) for sight in asked])
        if waiting is self.baseline.names:
            old = {index for index, sight in enumerate(asked) if index not in indexes and self.baseline.holds(sight)}
            await self.baseline.record([asked[index] for index in old])
            indexes |= old
        for sight in (asked[index] for index in indexes):
            known, name = self._known(sight.path)
            # A recorded image dropped once more is sent again: the ledger knows it, and `after` is applied again.
            if self._camera.after == "keep" or waiting is not None or known.get(name) is not None:
                known.put(name, stamp(sight.stamp[0], sight.stamp[1]))
                answered.add(sight.path)
        return answered

    def observed(self, path: bytes) -> bool:
        return path in self.candidates or path in self._outgoing.flights or path in self._outgoing.leaving

    async def _observe(self, sight: Sight, hint: Hint, before: float, after: float) -> None:
        """One more look at a file that is to be judged."""
        candidate = self.candidates.get(sight.path)
        if candidate is None:
            detected = self.first_seen.pop(sight.path, None) or self._utcnow()
            candidate = self.candidates[sight.path] = Candidate(sight.path, detected, after, after)
            self.misfits.found_again(sight.stamp[2])
        changed = candidate.progress is None or candidate.progress.stamp != sight.stamp
        candidate.hint = hint if changed else max(candidate.hint, hint)
        if changed:
            candidate.settled_at, candidate.note = None, ""
        self.misfits.forget(sight.path)
        if sight.links > 1:
            candidate.progress, candidate.due = None, after + self._camera.poll_s
            candidate.note = f"it has {sight.links} hard links and is judged when it has one"
            return
        rule = self._patience(candidate.hint)
        # The earlier of the two times for the first look would count time in which nobody looked.
        progress = step(candidate.progress, Look(after if changed else before, sight.stamp, sight.structure), rule)
        candidate.progress = progress
        if progress.phase in (Phase.SETTLED, Phase.GAVE_UP):
            await self._settled(candidate, rejected=progress.phase is Phase.GAVE_UP)
        else:
            candidate.due = next_look(progress, after, rule, self._camera.poll_s)

    def _patience(self, hint: Hint) -> Patience:
        camera = self._camera
        watched = self._folder.mode is WatchMode.INOTIFY
        return patience(hint, watched=watched, settle_s=camera.settle_s, poll_s=camera.poll_s, give_up_s=camera.incomplete_after_s)

    async def _settled(self, candidate: Candidate, *, rejected: bool) -> None:
        now = time.monotonic()
        candidate.settled_at = candidate.settled_at or now
        company = await self._company.of(candidate, still_s=now - candidate.settled_at, hurried=rejected)
        if company.wait_s > 0:
            candidate.note, candidate.due = company.note, now + company.wait_s
            return
        landing = self._company.landing(candidate, company, now, rejected=rejected)
        self.candidates.pop(candidate.path, None)
        self.last = (candidate.path, candidate.detected)
        if not self._outgoing.add(landing):
            known, name = self._known(candidate.path)
            known.put(name, LISTED)

    def company_came(self) -> None:
        """A file that is no image appeared: perhaps what some settled image waits for."""
        for candidate in self.candidates.values():
            if candidate.settled_at is not None:
                candidate.due = 0.0

    async def _gone(self, path: bytes, inodes: set[int]) -> None:
        if path in self._outgoing.leaving:
            return
        candidate = self.candidates.pop(path, None)
        known, name = self._known(path)
        before = known.get(name)
        known.drop(name)
        if self.misfits.forget(path) or path in self._outgoing.flights:
            return  # whoever reads a file in flight finds out
        if candidate is not None:
            self.misfits.lost(path, candidate.progress.stamp[2] if candidate.progress else 0, inodes)
        elif before == LISTED:
            self.misfits.vanished(path)
        elif before is not None:
            await self._recall.vanished(self._camera.name, path)

    def _unreadable(self, sight: Sight, now: float) -> None:
        """It waits, and is tried again at each poll."""
        if sight.path in self._outgoing.flights:
            return
        candidate = self.candidates.get(sight.path)
        if candidate is not None:
            candidate.due = now + (_GONE_AGAIN_S if sight.open_error in _GONE else self._camera.poll_s)
        self.misfits.unreadable[sight.path] = f"it cannot be read: {os.strerror(sight.error or sight.open_error)}"

    def retry_unreadable(self) -> None:
        again = (path for path in self.misfits.unreadable if path not in self.candidates and path not in self.fresh)
        self.fresh.update((path, Hint.SEEN) for path in again)

    def _odd(self, sight: Sight) -> None:
        self.candidates.pop(sight.path, None)
        known, name = self._known(sight.path)
        known.put(name, stamp(sight.stamp[0], sight.stamp[1]))
        self.misfits.odd_one(sight)

    def _known(self, path: bytes) -> tuple[KnownNames, str]:
        assert self.names is not None
        return self.names.known_of(path)

    def return_to(self, path: bytes, detected: datetime, due: float) -> None:
        """An image that could not be judged, or changed while it was read: observed anew from `due` on."""
        self.candidates[path] = Candidate(path, detected, time.monotonic(), due)
