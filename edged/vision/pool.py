"""The decoder processes: who is free, who works on what, who is late, who has died.

Invariants
- A process has one message of requests at a time: one, or in a backlog of small files a few. First come, first served.
- A request's slots are never free while a living process may still write them: they are given back with its answer or its end.
- `processes` of them are always there for work. One that waits long for a file system counts as lent, and another takes its place, up to
  SPARE times as many; so a hung share costs its own camera only.
- A process that is late is killed. In its folder's phases that is the folder's fault, in all others the image's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from edged.config import Decode
from edged.nouns import Board
from edged.vision.answers import sound
from edged.vision.backlog import Backlog
from edged.vision.condition import Condition
from edged.vision.members import Member, Request
from edged.vision.process import DecoderProcess
from edged.vision.slots import Granted
from edged.vision.wire import FORGET

TICK_S = 0.2
STUCK_S = 1.0
KEPT_S = 1.0
START_S = 60.0
BURIAL_S = 2.0
SPARE = 4
UNNEEDED = "not needed any more"


class Pool:
    """`ask` answers with what the process said, or `{"outcome": "died", ...}` / `{"outcome": "unavailable", ...}` when it could not."""

    def __init__(
        self, config: Decode, board: Board, give_back: Callable[[Granted], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._give_back, self._monotonic = config, give_back, monotonic
        self._settings = config.model_dump(exclude={"processes", "slots"})
        self._members: list[Member] = []
        self._queue = Backlog(give_back)
        self._condition = Condition(board)
        self._clock: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def deaths(self) -> int:
        return self._condition.deaths

    @property
    def busy(self) -> int:
        return sum(bool(member.batch) for member in self._members)

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
        self._queue.cancel()
        for member in self._members:
            if member.batch or not member.ready:
                member.process.kill()
            else:
                member.process.end()
        until = self._monotonic() + BURIAL_S
        while self._members and self._monotonic() < until:
            await asyncio.sleep(0.005)
            if self._monotonic() > until - BURIAL_S / 2:
                for member in self._members:
                    member.process.kill()

    async def ask(self, request: Request) -> dict[str, Any]:
        """The answer. When the asker is cancelled, the slots are given back as soon as nobody can write them."""
        self._queue.add(request)
        self._dispatch()
        try:
            return await request.answer
        except asyncio.CancelledError:
            if self._queue.withdraw(request):
                pass
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
            self._condition.start_failed(str(error), self._monotonic())
            return
        member = Member(process, self._monotonic())
        self._members.append(member)
        loop.add_reader(process.sock, self._answered, member)
        loop.add_reader(process.exited, self._exited, member)

    def _dispatch(self) -> None:
        idle = [member for member in self._members if member.idle]
        if not idle or not self._queue:
            return
        stalled = {request.camera for member in self._members if member.stuck for request in member.batch}
        for request in self._queue:
            free = [member for member in idle if member.kept_for is None]
            member = next((member for member in idle if member.kept_for == request.job.number), None)
            # A camera whose folder hangs gets only what the others leave.
            if member is None and len(free) > (request.camera in stalled):
                member = free[0]
            if member is None or request not in self._queue:
                continue
            idle.remove(member)
            batch, now = self._queue.take(request, stalled, self._config.processes), self._monotonic()
            if not member.begin(batch, now, self._config.timeout_s):  # it is ending, or the message is none a socket takes
                self._queue.unsent(batch, self._settle)
                self._kill(member, "it could not be told what to do", now)
            if not idle:
                return

    def _answered(self, member: Member) -> None:
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
            self._condition.started(len(self._members), str(message.get("unfiltered", ""))[:200])
        elif member.batch and sound(message, [request.job for request in member.batch]):
            self._take_in(member, message["answers"])
        else:
            member.killed = "it answered nonsense"
            member.process.kill()
        self._dispatch()

    def _take_in(self, member: Member, answers: list[dict[str, Any]]) -> None:
        batch, member.batch, member.stuck = member.batch, [], False
        last, answer = batch[-1], answers[-1]
        if not last.abandoned and (answer.get("more") or any(answer.get("need") or ())):
            member.kept_for, member.since = last.job.number, self._monotonic()
        for request, told in zip(batch, answers, strict=True):
            self._settle(request, told)
        if sum(other.counts for other in self._members) > self._config.processes and member.kept_for is None:
            member.killed = UNNEEDED
            member.process.end()

    def _settle(self, request: Request, message: dict[str, Any]) -> None:
        if request.abandoned or request.answer.done():
            self._give_back(request.slots)
        else:
            request.answer.set_result(message)

    def _exited(self, member: Member) -> None:
        if member.batch:  # its last answer may still lie in the socket
            self._answered(member)
        loop = asyncio.get_running_loop()
        loop.remove_reader(member.process.sock)
        loop.remove_reader(member.process.exited)
        self._members.remove(member)
        cause = member.process.cause()
        if not member.ready and not self._closing:
            self._condition.start_failed(cause, self._monotonic())
        self._mourn(member, member.killed or cause)
        member.process.close()
        if not self._closing:
            self._refill()
            self._dispatch()

    def _mourn(self, member: Member, cause: str) -> None:
        """Answers for the dead: the request it worked on died with it, the others of its batch never began or ended well unheard."""
        if member.buried:  # they were answered when it would not die; only the slots are left
            for request in member.batch:
                self._give_back(request.slots)
            return
        current = member.current
        if current is None and member.killed is not None:  # it talked nonsense: nobody knows about what
            guilty, others = member.batch, []
        else:
            guilty, others = [current] if current else [], [request for request in member.batch if request is not current]
        outcome = "unavailable" if member.killed and member.at_the_folder else "died"
        self._queue.again(others)
        for request in guilty:
            if not self._closing:
                self._condition.lost(request, self._monotonic())
            self._settle(request, request.settled(outcome, cause, reference=member.at_the_reference))

    def _refill(self) -> None:
        if not self._condition.may_start(self._monotonic()):
            return
        working = sum(member.counts for member in self._members)
        for _ in range(min(self._config.processes - working, SPARE * self._config.processes - len(self._members))):
            self._add()

    def _tick(self, now: float) -> None:
        for member in tuple(self._members):
            late = member.late(now)
            if member.killed is not None:
                self._bury(member, late)
            elif member.closed and late > BURIAL_S:
                self._kill(member, "it closed its end", now)
            elif not member.ready and late > START_S:
                self._kill(member, "it did not start in time", now)
            elif member.kept_for is not None and late > KEPT_S:
                self.let_go(member.kept_for)
            elif member.batch and late > self._config.timeout_s:
                self._kill(member, f"{member.doing} took longer than decode.timeout_s = {self._config.timeout_s:g} s", now)
            elif member.batch and late > STUCK_S and member.at_the_folder:
                member.stuck = True
        self._condition.look(len(self._members), now)
        self._refill()
        self._dispatch()

    def _kill(self, member: Member, cause: str, now: float) -> None:
        member.killed, member.since = cause, now
        member.process.kill()

    def _bury(self, member: Member, late: float) -> None:
        """A killed process that does not end hangs in its file system's code: whoever asked learns it now, the slots wait for its end."""
        if late <= BURIAL_S or member.buried or not member.batch:
            return
        current = member.current or member.batch[0]
        self._queue.again([request for request in member.batch if request is not current])
        member.batch, member.buried = [current], True
        if not current.abandoned and not current.answer.done():
            current.answer.set_result(current.settled("hung", member.killed or "", reference=member.at_the_reference))
