"""The decoder processes: who is free, who works on what, who is late, who has died.

Invariants
- A process has at most one request at a time; requests are begun first come, first served.
- A request's slots are never free while a living process may still write them: they are given back with its answer or its end.
- `processes` of them are always there for work. One that waits long for a file system counts as lent, and another takes its place, up to
  SPARE times as many; so a hung share costs its own camera only.
- A process that is late is killed. In its folder's phases that is the folder's fault, in all others the image's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edged.backoff import Backoff
from edged.config import Decode
from edged.nouns import Board, HealthStatus
from edged.vision.process import DecoderProcess
from edged.vision.ring import Granted, Ring
from edged.vision.wire import AT_THE_FOLDER, AT_WORK, FORGET, PLANS, RING, Job

TICK_S = 0.2
STUCK_S = 1.0
KEPT_S = 1.0
START_S = 60.0
BURIAL_S = 2.0
TROUBLE_S = 60.0
SPARE = 4


@dataclass(slots=True, eq=False)
class Request:
    """One job on its way: `plans` as the process needs them, `slots` it may fill. `answer` becomes the process's answer."""

    job: Job
    camera: str
    plans: list[dict[str, Any]]
    slots: Granted
    rings: Mapping[int, Ring]
    answer: asyncio.Future[dict[str, Any]]
    asked: float
    begun: float = 0.0
    abandoned: bool = False


@dataclass(slots=True, eq=False)
class _Member:
    process: DecoderProcess
    since: float
    ready: bool = False
    request: Request | None = None
    kept_for: int | None = None
    stuck: bool = False
    killed: str | None = None
    closed: bool = False
    buried: bool = False
    rings: set[int] = field(default_factory=set)
    plans: set[int] = field(default_factory=set)


class Pool:
    """`ask` answers with what the process said, or `{"outcome": "died", ...}` / `{"outcome": "unavailable", ...}` when it could not."""

    def __init__(
        self, config: Decode, board: Board, give_back: Callable[[Granted], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._board, self._give_back, self._monotonic = config, board, give_back, monotonic
        self._settings = config.model_dump(exclude={"processes", "slots"})
        self._members: list[_Member] = []
        self._queue: deque[Request] = deque()
        self._backoff = Backoff(first_s=0.5, cap_s=30.0)
        self._failed_starts = 0
        self._start_after = 0.0
        self._trouble_until: float | None = None
        self.deaths = 0
        self._clock: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> int:
        return sum(member.request is not None for member in self._members)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(member.process.pid for member in self._members if not member.buried)

    def start(self) -> None:
        for _ in range(self._config.processes):
            self._add()
        self._look_again()

    def _look_again(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(TICK_S, self._look_again)
        self._tick(self._monotonic())

    async def stop(self) -> None:
        """Ends every process: idle ones on their own, busy ones by force."""
        self._closing = True
        if self._clock is not None:
            self._clock.cancel()
        for request in self._queue:
            request.answer.cancel()
        self._queue.clear()
        for member in self._members:
            if member.request is not None or not member.ready:
                member.process.kill()
            else:
                member.process.end()
        until = self._monotonic() + BURIAL_S
        while any(not member.buried for member in self._members) and self._monotonic() < until:
            await asyncio.sleep(0.005)
            if self._monotonic() > until - BURIAL_S / 2:
                for member in self._members:
                    member.process.kill()

    async def ask(self, request: Request) -> dict[str, Any]:
        """The answer. When the asker is cancelled, the slots are given back as soon as nobody can write them."""
        self._queue.append(request)
        self._dispatch()
        try:
            return await request.answer
        except asyncio.CancelledError:
            if request in self._queue:
                self._queue.remove(request)
                self._give_back(request.slots)
            elif request.answer.done() and not request.answer.cancelled():
                if request.answer.result()["outcome"] != "hung":
                    self._give_back(request.slots)
            else:
                request.abandoned = True
            raise

    def let_go(self, number: int) -> None:
        """Nobody will go on with job `number`: the process kept for it is free."""
        for member in self._members:
            if member.kept_for == number:
                member.kept_for = None
                member.process.send({"kind": FORGET})
                self._dispatch()

    def _add(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            process = DecoderProcess(self._settings)
        except OSError as error:
            self._start_failed(str(error))
            return
        member = _Member(process, self._monotonic())
        self._members.append(member)
        loop.add_reader(process.sock, self._answered, member)
        loop.add_reader(process.exited, self._exited, member)

    def _dispatch(self) -> None:
        idle = [m for m in self._members if m.ready and m.request is None and m.killed is None and not m.closed]
        if not idle or not self._queue:
            return
        stalled = {member.request.camera for member in self._members if member.stuck and member.request is not None}
        for request in tuple(self._queue):
            free = [member for member in idle if member.kept_for is None]
            member = next((member for member in idle if member.kept_for == request.job.number), None)
            # A camera whose folder hangs gets only what the others leave.
            if member is None and len(free) > (request.camera in stalled):
                member = free[0]
            if member is None:
                continue
            self._queue.remove(request)
            idle.remove(member)
            self._begin(member, request)
            if not idle:
                return

    def _begin(self, member: _Member, request: Request) -> None:
        process, job = member.process, request.job
        for number, ring in request.rings.items():
            if number not in member.rings:
                member.rings.add(number)
                with ring.writable() as file:
                    process.send({"kind": RING, "ring": number, "nbytes": ring.nbytes}, file.fileno())
        if job.plans is not None and job.plans not in member.plans:
            member.plans.add(job.plans)
            process.send({"kind": PLANS, "plans": job.plans, "each": request.plans})
        member.request, member.kept_for = request, None
        member.since = request.begun = self._monotonic()
        process.send(job.to_wire())

    def _answered(self, member: _Member) -> None:
        try:
            message = member.process.receive()
        except EOFError:  # it is ending; how, its exit status will tell
            asyncio.get_running_loop().remove_reader(member.process.sock)
            member.closed = True
            return
        except ValueError:
            message = {}
        if message is None:
            return
        if "hello" in message and not member.ready:
            member.ready = True
            self._failed_starts = 0
            if self._trouble_until is None:
                self._board.report("decoders", HealthStatus.OK, processes=len(self._members), deaths=self.deaths)
        elif member.request is not None and message.get("number") == member.request.job.number:
            request, member.request, member.stuck = member.request, None, False
            if not request.abandoned and (message.get("more") or any(message.get("need") or ())):
                member.kept_for = request.job.number
                member.since = self._monotonic()
            self._settle(request, message)
            self._retire(member)
        else:
            member.killed = "it answered nonsense"
            member.process.kill()
        self._dispatch()

    def _settle(self, request: Request, message: dict[str, Any]) -> None:
        if request.abandoned or request.answer.done():
            self._give_back(request.slots)
        else:
            request.answer.set_result(message)

    def _retire(self, member: _Member) -> None:
        working = sum(other.killed is None and not other.stuck for other in self._members)
        if working > self._config.processes and member.kept_for is None:
            member.killed = "not needed any more"
            member.process.end()

    def _exited(self, member: _Member) -> None:
        # Its last answer may still lie in the socket.
        if member.request is not None:
            self._answered(member)
        loop = asyncio.get_running_loop()
        loop.remove_reader(member.process.sock)
        loop.remove_reader(member.process.exited)
        self._members.remove(member)
        cause = member.process.cause()
        unwanted = member.killed != "not needed any more" and not self._closing
        if unwanted and not member.ready:
            self._start_failed(cause)
        if (request := member.request) is not None:
            if unwanted and not member.buried and (member.killed or member.process.phase in AT_WORK):
                self._trouble(request)
            self._settle_death(member, request, member.killed or cause)
        member.process.close()
        if not self._closing:
            self._refill()
            self._dispatch()
        member.buried = True

    def _settle_death(self, member: _Member, request: Request, cause: str) -> None:
        if member.buried:  # answered when it would not die; only the slots are left
            self._give_back(request.slots)
            return
        if member.killed is None and member.process.phase not in AT_WORK and not request.abandoned:
            self._queue.appendleft(request)  # it had died before it began
            return
        at_the_folder = member.killed is not None and member.process.phase in AT_THE_FOLDER
        outcome = "unavailable" if at_the_folder else "died"
        self._settle(request, {"number": request.job.number, "outcome": outcome, "detail": cause, "timing": {}})

    def _trouble(self, request: Request) -> None:
        self.deaths += 1
        self._trouble_until = self._monotonic() + TROUBLE_S
        name = request.job.path.encode("utf-8", "backslashreplace").decode()
        self._board.report(
            "decoders",
            HealthStatus.DEGRADED,
            f"a decoder process was lost on {name!r} of camera {request.camera}",
            "It was replaced. If this goes on, look at the images in quarantine.",
            deaths=self.deaths,
        )

    def _start_failed(self, cause: str) -> None:
        self._failed_starts += 1
        self._start_after = self._monotonic() + self._backoff.delay_s(self._failed_starts, 0.5)
        self._board.report("decoders", HealthStatus.DOWN, f"a decoder process does not start: {cause}", "Run `edged doctor`.")

    def _refill(self) -> None:
        if self._monotonic() < self._start_after:
            return
        working = sum(member.killed is None and not member.stuck for member in self._members)
        for _ in range(min(self._config.processes - working, SPARE * self._config.processes - len(self._members))):
            self._add()

    def _tick(self, now: float) -> None:
        for member in tuple(self._members):
            late = now - member.since
            if member.killed is not None:
                self._bury(member, late)
            elif member.closed and late > BURIAL_S:
                member.killed = "it closed its end"
                member.process.kill()
            elif not member.ready and late > START_S:
                member.killed = "it did not start in time"
                member.process.kill()
            elif member.kept_for is not None and late > KEPT_S:
                self.let_go(member.kept_for)
            elif member.request is not None and late > self._config.timeout_s:
                doing = "reading it" if member.process.phase in AT_THE_FOLDER else "decoding it"
                member.killed = f"{doing} took longer than decode.timeout_s = {self._config.timeout_s:g} s"
                member.since = now
                member.process.kill()
            elif member.request is not None and late > STUCK_S and member.process.phase in AT_THE_FOLDER:
                member.stuck = True
        if self._trouble_until is not None and now > self._trouble_until:
            self._trouble_until = None
            self._board.report("decoders", HealthStatus.OK, processes=len(self._members), deaths=self.deaths)
        self._refill()
        self._dispatch()

    def _bury(self, member: _Member, late: float) -> None:
        """A killed process that does not end hangs in its file system's code: whoever asked learns it now, the slots wait for its end."""
        if late > BURIAL_S and not member.buried and (request := member.request) is not None:
            cause = member.killed or ""
            if not request.abandoned and not request.answer.done():
                request.answer.set_result({"number": request.job.number, "outcome": "hung", "detail": cause, "timing": {}})
            member.buried = True
