"""The journey of one image, top to bottom.

    drop folder           a bounded channel a recipe, ring slots                       SQLite            broker
    [intake] --Landing--> [vision] --Tensor--> [inference] --Outputs--> [verdict] --> [ledger] ==> [plant] --PUBACK
       ^ a full channel, or a ring without a free slot, blocks its sender; at the far end the images simply wait in the folder

`journey.py` takes one landing from vision to its verdicts; this file runs many of them, records what they say and tells intake.

Invariants
- One direction, no way back: a landing that cannot go on is put back, which means that it waits in its folder and is looked at again.
- Nothing here is durable. Until `ledger.record` has returned, a crash costs nothing but work: the folder is listed again.
- Intake hears `done` only after the commit: no file is moved or deleted before its verdict is on disk.
- A peer that is away holds its (camera, recipe) only; the others go on. Every recipe has a channel and workers of its own: one whose
  model is slow, or hangs until its deadline, takes none of the others'.
- The write of an outcome is shielded from cancellation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from edged.channel import Channel, Lanes
from edged.errors import ModelMismatch, Unavailable
from edged.failpoints import reach
from edged.flights import Flights
from edged.holds import Holds
from edged.nouns import Landing, PageResult, Recorded, Recording
from edged.vision.outcomes import ChangedUnderway

T = TypeVar("T")


class Journey(Protocol):
    async def judge(self, landing: Landing) -> list[PageResult]: ...


class Intake(Protocol):
    """Who sends landings."""

    def put_back(self, landing: Landing) -> None: ...
    async def done(self, landing: Landing, recorded: Recorded) -> None: ...
    async def vanished(self, landing: Landing) -> None: ...


class Ledger(Protocol):
    async def record(self, pages: Sequence[PageResult]) -> Recorded: ...


class Metrics(Protocol):
    def image_done(self, camera: str, outcome: str) -> None: ...
    def verdict(self, kind: str) -> None: ...
    def stage(self, stage: str, seconds: float) -> None: ...


class Pipeline:
    """Takes landings from the channels until they close; `workers` images of each recipe are under way at once.

    What becomes of one is told to who sent it: `intake`, or `rejudging` for those that are judged again.
    """

    def __init__(
        self,
        *,
        landings: Lanes[Landing],
        journey: Journey,
        intake: Intake,
        rejudging: Intake,
        ledger: Ledger,
        metrics: Metrics,
        holds: Holds,
        workers: int,
        flights: Flights | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._landings, self._journey, self._ledger = landings, journey, ledger
        self._intake, self._rejudging = intake, rejudging
        self._metrics, self._holds, self._workers, self._monotonic = metrics, holds, workers, monotonic
        self._flights = flights or Flights()
        self.in_flight = 0
        self.advanced = monotonic()

    async def run(self) -> None:
        """Ends when the channels are closed and everything taken from them is recorded or put back."""
        async with asyncio.TaskGroup() as group:
            for recipe, landings in self._landings.lanes.items():
                for number in range(self._workers):
                    group.create_task(self._work(landings), name=f"journey-{recipe}-{number}")

    async def _work(self, landings: Channel[Landing]) -> None:
        async for landing in landings:
            if self.in_flight == 0:
                self.advanced = self._monotonic()  # an idle pipeline does not stand still
            self.in_flight += 1
            try:
                await self._one(landing)
            finally:
                self.in_flight -= 1
                self.advanced = self._monotonic()

    async def _one(self, landing: Landing) -> None:
        """From a landing to its record; every way out records it, puts it back, or knows it gone."""
        sender = self._rejudging if landing.again else self._intake
        if not self._flights.due(landing) or not self._holds.admit(landing.camera, landing.recipe, landing):
            sender.put_back(landing)
            return
        try:
            await self._admitted(landing, sender)
        finally:
            self._holds.returned(landing.camera, landing.recipe, landing)

    async def _admitted(self, landing: Landing, sender: Intake) -> None:
        reach("image.taken", landing.path)
        try:
            async with self._flights.flight(landing) as flight:
                pages = await self._journey.judge(flight.landing)
                reach("image.judged", landing.path)
                flight.recording()
                recorded = await _shielded(self._ledger.record(pages))
        except (Unavailable, ModelMismatch) as error:
            if landing.again is None:  # where an old image lies may be away while the folder of the new ones is well
                self._holds.hold(landing.camera, landing.recipe, error)
            sender.put_back(landing)
        except ChangedUnderway:
            sender.put_back(landing)
        except FileNotFoundError:
            await sender.vanished(landing)
        else:
            reach("image.recorded", landing.path)
            if landing.again is None:
                self._holds.release(landing.camera, landing.recipe)
            await _shielded(sender.done(landing, recorded))
            self._count(landing, pages, recorded)

    def _count(self, landing: Landing, pages: Sequence[PageResult], recorded: Recorded) -> None:
        self._metrics.image_done(landing.camera, "rejudged" if landing.again else recorded.outcome.value)
        if recorded.outcome is not Recording.RECORDED:
            return
        for page in pages:
            self._metrics.verdict(page.verdict.kind.value)
            for stage, value_ms in page.timing_ms.items():
                self._metrics.stage(stage, value_ms / 1000)


async def _shielded(outcome: Awaitable[T]) -> T:
    """Waits for an outcome to its end even when we are cancelled meanwhile: a verdict under way is not torn."""
    task = asyncio.ensure_future(outcome)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
