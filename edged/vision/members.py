"""One decoder process as the pool sees it: its batch of requests, what it has been told, how long it has been at it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edged.vision.process import DecoderProcess
from edged.vision.ring import Ring
from edged.vision.slots import Granted
from edged.vision.wire import AT_THE_FOLDER, AT_WORK, PLANS, REFERENCE, RING, Job


@dataclass(slots=True, eq=False)
class Request:
    """One job on its way: `plans` as the process needs them, `slots` it may fill. `answer` becomes the process's answer.

    `whole`: this one request is likely all there is to do for the file, so it may travel with others.
    """

    job: Job
    camera: str
    plans: list[dict[str, Any]]
    slots: Granted
    rings: Mapping[int, Ring]
    answer: asyncio.Future[dict[str, Any]]
    asked: float
    whole: bool = False
    begun: float = 0.0
    abandoned: bool = False
    unsent: int = 0

    def settled(self, outcome: str, detail: str, *, reference: bool = False) -> dict[str, Any]:
        """An answer in place of the process's. `reference`: it was at the golden reference."""
        return {"number": self.job.number, "outcome": outcome, "detail": detail, "timing": {}, "reference": reference}


@dataclass(slots=True, eq=False)
class Member:
    """`since`: when it began what it does now. `killed`: why we ended it. `buried`: its requests were answered without it."""

    process: DecoderProcess
    since: float
    ready: bool = False
    batch: list[Request] = field(default_factory=list)
    kept_for: int | None = None
    stuck: bool = False
    killed: str | None = None
    closed: bool = False
    buried: bool = False
    _number: int = 0
    _rings: set[int] = field(default_factory=set)
    _plans: set[int] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        return self.ready and not self.batch and self.killed is None and not self.closed

    @property
    def counts(self) -> bool:
        """Whether it is one of those that get the work done."""
        return self.killed is None and not self.stuck

    @property
    def current(self) -> Request | None:
        """The request it is, or was at its end, working on."""
        if self.process.phase not in AT_WORK:
            return None
        number = self.process.job_number
        return next((request for request in self.batch if request.job.number == number), None)

    @property
    def at_the_folder(self) -> bool:
        return self.process.phase in AT_THE_FOLDER

    @property
    def at_the_reference(self) -> bool:
        return self.process.phase == REFERENCE

    @property
    def doing(self) -> str:
        """What it does with an image, in words."""
        if self.at_the_reference:
            return "looking at its golden reference"
        return "reading it" if self.at_the_folder else "decoding it"

    def begin(self, batch: list[Request], now: float, timeout_s: float) -> bool:
        """Sends the jobs in one message, after whatever they need to be told first. False when it could not be told: it has no batch."""
        for request in batch:
            request.begun = now
            for number, ring in request.rings.items():
                if number not in self._rings:
                    self.process.allow_file_bytes(ring.facts.slots * ring.nbytes)
                    if not self.process.send({"kind": RING, "ring": number, "nbytes": ring.nbytes}, ring.writable):
                        return False
                    self._rings.add(number)
            plans = request.job.plans
            if plans is not None and plans not in self._plans:
                if not self.process.send({"kind": PLANS, "plans": plans, "each": request.plans}):
                    return False
                self._plans.add(plans)
        self.process.allow_cpu_s(timeout_s * len(batch))
        if not self.process.send({"jobs": [request.job.to_wire() for request in batch]}):
            return False
        self.batch, self.kept_for, self.since = batch, None, now
        return True

    def late(self, now: float) -> float:
        """Seconds it has been at its present job (or in its present state)."""
        if self.batch and (number := self.process.job_number) != self._number:
            self._number, self.since = number, now
        return now - self.since
