"""Adaptive batching for one model: what is ready goes at once; what becomes ready meanwhile goes together.

Invariants
- At most `in_flight` volleys are under way. A volley is what was ready, oldest first, at most `max_batch` rows; nothing waits for company.
- In a volley, neighbours in a registered ring share one request; everything that has no registered ring shares one of plain bytes.
- An entry whose request failed at the model is tried once more alone, so that one poisoned image takes no other with it.
- When a request is overdue its callers are told, but the call runs on: slots come back when Triton answers or is known to be gone.
- A request that is overdue opens the circuit; while that is open nothing is sent. If the model passes its checks all the same, the others
  go on beside the stuck request; the images it carried are suspects, and go alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import grpc

from edged.errors import EdgedError, ModelOutputInvalid, Unavailable
from edged.inference.answers import Row
from edged.inference.client import CallFailed
from edged.inference.slots import Entry
from edged.inference.suspects import TRIES, Suspects

IN_FLIGHT = 2
HARD_DEADLINES = 12
"""A call ends for good after this many deadlines: by then its model hangs, or its server is gone and the pings have not told."""

Answers = Coroutine[Any, Any, list[Row | ModelOutputInvalid]]
Spawn = Callable[[Coroutine[Any, Any, None], str], None]


class Exchange(Protocol):
    """How requests travel: through a registered ring or as bytes."""

    def region(self, ring: str) -> str | None: ...

    def in_memory(self, region: str, run: Sequence[Entry], deadline_s: float) -> Answers: ...

    def carried(self, run: Sequence[Entry], deadline_s: float) -> Answers: ...

    def lost(self, run: Sequence[Entry]) -> None:
        """No answer came; `run` are entries that lie in shared memory Triton may still read."""

    def failed(self, error: CallFailed) -> EdgedError | CallFailed:
        """What the callers are told; takes note of it."""

    @property
    def shut(self) -> bool:
        """The circuit is open: nothing may be sent."""

    def overdue(self, run: Sequence[Entry]) -> None: ...

    def answered(self) -> None: ...


class Batcher:
    """`submit` entries, await their `answer`. `requests` counts what was sent; `overdue` what is stuck."""

    def __init__(
        self,
        name: str,
        exchange: Exchange,
        spawn: Spawn,
        max_batch: int,
        deadline_s: float,
        in_flight: int = IN_FLIGHT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests = 0
        self.volleys = 0
        self.overdue = 0
        self.overdue_since = 0.0
        self.suspects = Suspects(clock)
        self._lone = False  # a suspect is with the model
        self._losses = 0
        self._name, self._exchange, self._spawn, self._clock = name, exchange, spawn, clock
        self._max_batch, self._deadline_s, self._in_flight = max_batch, deadline_s, in_flight
        self.rings: set[str] = set()
        self._pending: dict[tuple[str, int], Entry] = {}  # by ring and offset, oldest first
        self._scheduled = False

    @property
    def waiting(self) -> int:
        return len(self._pending)

    @property
    def now(self) -> float:
        """By the clock of `Entry.answered`."""
        return self._clock()

    @property
    def stuck_s(self) -> float:
        """How long the oldest stuck request has been with Triton; 0 if there is none."""
        return self._clock() - self.overdue_since if self.overdue else 0.0

    def submit(self, entry: Entry) -> asyncio.Future[Row]:
        """Queues it; what is submitted in the same turn of the loop goes together."""
        loop = asyncio.get_running_loop()
        entry.answer = loop.create_future()
        entry.queued = self._clock()
        self.rings.add(entry.tensor.ring)
        entry.suspect = self.suspects.suspected(entry.tensor)
        entry.alone = entry.alone or entry.suspect
        self._pending[entry.tensor.ring, entry.tensor.offset] = entry
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._pump)
        return entry.answer

    def withdraw(self, entry: Entry) -> None:
        """Its caller left before it was sent."""
        place = (entry.tensor.ring, entry.tensor.offset)
        if self._pending.get(place) is entry:
            del self._pending[place]

    def guilty(self, entry: Entry) -> ModelOutputInvalid | None:
        """Set for an image that made the model hang, or Triton end, alone, as often as it takes to be sure."""
        if not (did := self.suspects.guilty(entry.tensor)):
            return None
        if did == "deaths":
            return ModelOutputInvalid(self._name, f"Triton ended {TRIES} times when it was at this image and nothing else")
        return ModelOutputInvalid(self._name, f"it gave no answer within {self._deadline_s:g} s, {TRIES} times, to this image alone")

    def lost(self, error: EdgedError) -> None:
        """Triton itself is away: whatever hangs now hangs for that."""
        self._losses += 1
        self.suspects.nobodys_fault()
        self.fail_waiting(error)

    def fail_waiting(self, error: EdgedError) -> None:
        waiting, self._pending = self._pending, {}
        for entry in waiting.values():
            entry.reject(error)

    def _hangs(self) -> Unavailable:
        return Unavailable("triton", f"model {self._name} has not answered within {self._deadline_s:g} s", "Look at Triton's log.")

    def _pump(self) -> None:
        self._scheduled = False
        if self._exchange.shut:
            self.fail_waiting(self._hangs())
        while self._pending and self.volleys < self._in_flight and not self._lone:
            runs = self._next_volley()
            if not runs:
                return  # a suspect waits until nothing else is under way
            self.volleys += 1
            self.requests += len(runs)
            self._spawn(self._volley(runs), f"infer {self._name}")

    def _next_volley(self) -> list[tuple[str | None, list[Entry]]]:
        """Runs of entries with the region they lie in; region None: to be carried as bytes."""
        left = self._max_batch
        runs: list[tuple[str | None, list[Entry]]] = []
        carried: list[Entry] = []
        while left and self._pending:
            oldest = next(iter(self._pending.values()))
            region = self._exchange.region(oldest.tensor.ring)
            if oldest.suspect:
                if self.volleys or runs or carried:
                    break
                self.withdraw(oldest)
                self._lone = True
                return [(region, [oldest])]
            if region is None and not oldest.alone:
                self.withdraw(oldest)
                carried.append(oldest)
                left -= 1
                continue
            run = self._neighbours(oldest, 1 if oldest.alone else left)
            left -= len(run)
            runs.append((region, run))
        return [*runs, (None, carried)] if carried else runs

    def _neighbours(self, oldest: Entry, most: int) -> list[Entry]:
        """Takes `oldest` and pending entries that lie right after and before it, in the order of their slots."""
        tensor = oldest.tensor
        run = [oldest]
        for step in (1, -1):
            offset = tensor.offset
            while len(run) < most:
                offset += step * tensor.nbytes
                beside = self._pending.get((tensor.ring, offset))
                if beside is None or beside.alone:
                    break
                run.append(beside)
        for entry in run:
            self.withdraw(entry)
        return sorted(run, key=lambda entry: entry.tensor.offset)

    async def _volley(self, runs: list[tuple[str | None, list[Entry]]]) -> None:
        """Ends when every request was answered or is overdue; what is overdue is waited for apart."""
        try:
            if len(runs) == 1:
                await self._request(*runs[0])
            else:
                async with asyncio.TaskGroup() as group:
                    for region, run in runs:
                        group.create_task(self._request(region, run), name=f"infer {self._name}")
        finally:
            self.volleys -= 1
            self._lone = False
        self._pump()

    async def _request(self, region: str | None, run: list[Entry]) -> None:
        now, hard_s, losses = self._clock(), self._deadline_s * HARD_DEADLINES, self._losses
        for entry in run:
            entry.sent, entry.in_hand = now, region is not None
        send = self._exchange.carried(run, hard_s) if region is None else self._exchange.in_memory(region, run, hard_s)
        call = asyncio.create_task(send, name=f"call {self._name}")
        done, _ = await asyncio.wait({call}, timeout=self._deadline_s)
        if done:
            self._settle(run, call)
            return
        if self._losses == losses:
            self.suspects.hung((entry.tensor for entry in run if entry.awaited), alone=self._lone)
        self.overdue_since = self.overdue_since if self.overdue else self._clock() - self._deadline_s
        self.overdue += 1
        self._exchange.overdue(run)
        error = self._hangs()
        self.fail_waiting(error)
        for entry in run:
            entry.reject(error)
        self._spawn(self._stuck(run, call), f"stuck {self._name}")

    async def _stuck(self, run: list[Entry], call: asyncio.Future[list[Row | ModelOutputInvalid]]) -> None:
        """A request that nobody waits for any more, but its slots do."""
        try:
            await asyncio.wait({call})
        finally:
            self.overdue -= 1
        self._settle(run, call)

    def _settle(self, run: list[Entry], call: asyncio.Future[list[Row | ModelOutputInvalid]]) -> None:
        now = self._clock()
        try:
            rows = call.result()
        except CallFailed as failure:
            if failure.died:
                self.suspects.died((entry.tensor for entry in run if entry.awaited), alone=failure.alone and len(run) == 1)
            for entry in run:
                entry.answered = now
            touchable = [entry for entry in run if entry.in_hand]
            if failure.answered or not failure.sent:
                _returned(touchable)
            else:
                self._exchange.lost(touchable)
            self._fail(run, failure)
            return
        self._exchange.answered()
        for entry, row in zip(run, rows, strict=True):
            entry.answered = now
            if entry.awaited:  # else the answer is late, and the slot may be another image's by now
                self.suspects.cleared(entry.tensor)
            entry.returned()
            if isinstance(row, ModelOutputInvalid):
                entry.reject(row)
            else:
                entry.resolve(row)

    def _fail(self, run: list[Entry], failure: CallFailed) -> None:
        # At the end of all deadlines: that it is overdue was told long ago.
        late = failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        error = self._hangs() if late else self._exchange.failed(failure)
        if isinstance(error, ModelOutputInvalid) and len(run) > 1:
            for entry in run:
                entry.alone = True
                if entry.answer is not None and not entry.answer.done():
                    self._pending[entry.tensor.ring, entry.tensor.offset] = entry
            return
        for entry in run:
            entry.reject(error)


def _returned(entries: Sequence[Entry]) -> None:
    for entry in entries:
        entry.returned()
