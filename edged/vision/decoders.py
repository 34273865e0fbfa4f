"""The door of the vision room: landed files in, page parts with tensors in shared memory out.

Invariants
- Every slot of a yielded part belongs to whoever got the part, until `release`; all other slots are given back here.
- Slots come before a process: an image whose model cannot take it holds no decoder.
- A death is counted for the page that was being decoded. The first is tried again in another process; the second rejects the page when its
  file is known to have it, from an earlier page, else the file.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edged.config import Decode, QualityLimits
from edged.nouns import Board, ImageFacts, InputPlan, Landing, PagePart, Tensor
from edged.vision.members import Request
from edged.vision.outcomes import Rejected, raise_for
from edged.vision.pool import Pool
from edged.vision.quality import Measured, judge
from edged.vision.ring import Ring, RingFacts, remove_stale
from edged.vision.slots import Granted, Slots, Want
from edged.vision.steps import check, to_wire
from edged.vision.wire import Job, geometry_from_wire, image_from_wire

_FIRST_TILES = 4


@dataclass(frozen=True, slots=True)
class DecodersSnapshot:
    """For status and metrics. `rings`: (name, slots, free)."""

    processes: int
    busy: int
    waiting: int
    deaths: int
    rings: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _PlanSet:
    """A recipe's plans as the processes know them. `first` is what an untouched page asks for."""

    number: int
    plans: tuple[InputPlan, ...]
    wire: list[dict[str, Any]]
    rings: tuple[Ring, ...]
    first: list[Want]
    numbered: Mapping[int, Ring]
    tiled: bool


class Decoders:
    """Async context manager: the processes run inside it. `limits`: quality limits by recipe name."""

    def __init__(
        self, config: Decode, limits: Mapping[str, QualityLimits], board: Board, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._monotonic = dict(limits), monotonic
        self._slots = Slots(config.slots)
        self._pool = Pool(config, board, self._give_back, monotonic)
        self._numbers = itertools.count(1)
        self._plan_sets: dict[tuple[InputPlan, ...], _PlanSet] = {}
        self._last: dict[str, _PlanSet] = {}  # by recipe: comparing plans costs more than looking whether they are the same
        self._ring_numbers: dict[int, int] = {}
        self._on_ring: list[Callable[[RingFacts], None]] = []
        self._deaths: dict[_Key, int] = {}

    async def __aenter__(self) -> Self:
        remove_stale()
        self._pool.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._pool.stop()
        finally:
            self._slots.remove()

    def rings(self) -> tuple[RingFacts, ...]:
        return tuple(ring.facts for ring in self._slots.all())

    def on_ring(self, callback: Callable[[RingFacts], None]) -> None:
        """`callback` is told of every ring that is made from now on."""
        self._on_ring.append(callback)

    def snapshot(self) -> DecodersSnapshot:
        rings = tuple((ring.facts.name, ring.facts.slots, ring.free) for ring in self._slots.all())
        return DecodersSnapshot(len(self._pool.pids), self._pool.busy, self._pool.waiting, self._pool.deaths, rings)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that can take work."""
        return self._pool.pids

    def reserve(self, plans: Sequence[InputPlan]) -> None:
        """Makes the rings these plans need, so that they are registered before the first image. Raises ModelMismatch, Unavailable."""
        self._plan_set(tuple(plans))

    def turned(self, recipe: str, ready: bool) -> None:
        """The recipe's models can be asked, or cannot: then no image waits for a slot, and `prepare` raises Unavailable where it would."""
        self._slots.in_vain(recipe, not ready)

    def release(self, tensor: Tensor) -> None:
        """The slot is free again: nobody reads it any more. Raises ValueError when it was released before."""
        self._slots.release(tensor.ring, tensor.slot)

    async def facts(self, landing: Landing) -> ImageFacts:
        """Hash, size and media type of a file, without any codec.

        Raises Unavailable, FileNotFoundError, ChangedUnderway; Rejected when even this kills a process.
        """
        answer = await self._ask(landing, Job(next(self._numbers), *_place(landing), plans=None), None, [])
        raise_for(answer, landing, "")
        if answer["outcome"] == "died":
            raise Rejected("decoder-died", f"reading it ended a decoder process: {answer['detail']}")
        return image_from_wire(answer["image"])

    async def prepare(
        self, landing: Landing, recipe: str, plans: Sequence[InputPlan], reference: Path | Sequence[Path] | None
    ) -> AsyncGenerator[PagePart, None]:
        """The file's pages in order, each in one part, or several when it has more tiles than there are free slots.

        Of several paths for the golden `reference` the first that is a file counts; only a decoder process looks.

        The first part of a page holds at least one tensor of every plan. Raises Rejected for the whole file, Unavailable
        (`folder:{camera}`; `recipe:{recipe}` when its flat field or golden reference is away; `decoders`; `/dev/shm`), FileNotFoundError or
        ChangedUnderway when the file is not the one that landed, ModelMismatch when a plan cannot fill its model's input.
        """
        if landing.rejected is not None:
            raise Rejected(landing.rejected, landing.rejected_detail, await self.facts(landing))
        known = self._last.get(recipe)
        if known is None or len(known.plans) != len(plans) or any(a is not b for a, b in zip(known.plans, plans, strict=True)):
            known = self._last[recipe] = self._plan_set(tuple(plans))
        job = Job(
            next(self._numbers),
            *_place(landing),
            plans=known.number,
            done=(0,) * len(plans),
            reference=tuple(str(path) for path in ((reference,) if isinstance(reference, Path) else reference or ())),
        )
        wants = known.first
        image: ImageFacts | None = None
        need: Sequence[int]
        try:
            while True:
                granted = await self._slots.acquire(wants, recipe)
                asked = replace(job, slots=tuple((plan, self._ring_numbers[id(ring)], slot) for plan, ring, slot in granted))
                answer = await self._ask(landing, asked, known, granted)
                if answer["outcome"] == "died":
                    self._give_back(granted)
                    if self._first_death(landing, job.page):
                        continue
                    part = await self._mourn(landing, job.page, image, answer)
                    need, more = (), job.page + 1 < (part.image.pages or 0)
                else:
                    part = self._part(landing, recipe, granted, answer)
                    need, more = answer.get("need") or (), bool(answer.get("more"))
                image = part.image
                yield part
                if any(need):
                    done = tuple(count + sum(t.model == i for t in part.tensors) for i, count in enumerate(job.done))
                    job = replace(job, done=done, sha256=image.sha256)
                    wants = [(i, known.rings[i], count) for i, count in enumerate(need) if count]
                    continue
                self._deaths.pop(_key(landing, job.page), None)
                if more:
                    job = replace(job, page=job.page + 1, done=(0,) * len(plans), sha256=image.sha256)
                    wants = known.first
                else:
                    return
        finally:
            self._pool.let_go(job.number)

    def _plan_set(self, plans: tuple[InputPlan, ...]) -> _PlanSet:
        if (known := self._plan_sets.get(plans)) is not None:
            return known
        rings = []
        for plan in plans:
            check(plan)
            ring, new = self._slots.ring(plan)
            rings.append(ring)
            if new:
                self._ring_numbers[id(ring)] = len(self._ring_numbers)
                for callback in self._on_ring:
                    callback(ring.facts)
        tiled = [plan.preprocess.fit == "tile" for plan in plans]
        first = [(i, ring, _FIRST_TILES if tiled[i] else 1) for i, ring in enumerate(rings)]
        numbered = {self._ring_numbers[id(ring)]: ring for ring in rings}
        made = _PlanSet(len(self._plan_sets), plans, [to_wire(plan) for plan in plans], tuple(rings), first, numbered, any(tiled))
        self._plan_sets[plans] = made
        return made

    async def _ask(self, landing: Landing, job: Job, known: _PlanSet | None, granted: Granted) -> dict[str, Any]:
        now = self._monotonic()
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        wire, rings = (known.wire, known.numbered) if known is not None else ([], {})
        whole = known is not None and not known.tiled and job.page == 0
        request = Request(job, landing.camera, wire, granted, rings, future, now, whole)
        answer = await self._pool.ask(request)
        answer["timing"]["wait"] = (request.begun - now) * 1000
        return answer

    def _first_death(self, landing: Landing, page: int) -> bool:
        key = _key(landing, page)
        self._deaths[key] = self._deaths.get(key, 0) + 1
        return self._deaths[key] < 2

    async def _mourn(self, landing: Landing, page: int, before: ImageFacts | None, answer: Mapping[str, Any]) -> PagePart:
        """The rejected page that ended two processes. Raises Rejected for the file when no page of it was seen before."""
        detail = f"decoding it ended two decoder processes; the second one: {answer['detail']}"
        if before is None:
            try:
                image = await self.facts(landing)
            except Rejected:
                image = None
            del self._deaths[_key(landing, page)]
            raise Rejected("decoder-died", detail, image)
        same = before.page == page
        image = before if same else ImageFacts(before.sha256, before.bytes, before.media_type, page, before.pages)
        return PagePart(image, None, (), True, "", (), answer["timing"], ("decoder-died", detail))

    def _part(self, landing: Landing, recipe: str, granted: Granted, answer: dict[str, Any]) -> PagePart:
        tensors: list[Tensor] = []
        used: set[int] = set()
        if answer["outcome"] == "page":
            for position, geometry in answer["tensors"]:
                plan, ring, slot = granted[position]
                used.add(position)
                where = ring.facts.name, slot, slot * ring.nbytes, ring.nbytes
                tensors.append(Tensor(plan, ring.views[slot], geometry_from_wire(geometry), *where))
        # A process that would not die keeps its slots until it does.
        if answer["outcome"] != "hung":
            self._give_back([grant for position, grant in enumerate(granted) if position not in used])
        raise_for(answer, landing, recipe)
        image = image_from_wire(answer["image"])
        timing = answer["timing"]
        if answer["outcome"] == "rejected":
            reason, detail = answer["reason"], answer["detail"]
            if answer["whole"]:
                self._deaths.pop(_key(landing, image.page), None)
                raise Rejected(reason, detail, image)
            return PagePart(image, None, (), True, "", (), timing, (reason, detail))
        quality = judge(Measured(*answer["quality"]), self._limits.get(recipe))
        return PagePart(image, quality, tuple(tensors), not any(answer["need"]), answer["hash"], tuple(answer["steps"]), timing)

    def _give_back(self, granted: Granted) -> None:
        for _, ring, slot in granted:
            self._slots.give_back(ring, slot)


def _place(landing: Landing) -> tuple[str, str, int, int, int]:
    lies = landing.again or landing  # an image that is judged again may lie elsewhere by now
    return lies.folder, lies.path.decode("utf-8", "surrogateescape"), landing.size, lies.mtime_ns, lies.inode


_Key = tuple[str, bytes, int, int, int, int]


def _key(landing: Landing, page: int) -> _Key:
    return landing.camera, landing.path, landing.size, landing.mtime_ns, landing.inode, page
