"""Who may take off, who is a suspect of the daemon's last death, and who is condemned for it.

Invariants
- An image is told in a slot from before it is judged until its record is on disk, or it is put back.
- After a death that nobody explains, the images that were under way at that moment are suspects. A suspect is judged alone, so that what
  happens then can be its doing only: nothing else is under way and one decoder process works, for at most `ALONE_S`.
- A death counts against an image only when it is proven to be its doing: an exception that nobody expects left its journey; or it was
  alone, being judged, and the daemon ended by such an exception, by a fatal signal (it left its stack) or for want of memory (the kernel's
  count of OOM kills grew). A SIGKILL from elsewhere proves nothing, however often it comes: no number of kills condemns an image.
- At the second such death it is condemned: its verdict is ERROR `daemon-died`. But once one is condemned, no other is before an image was
  judged: a daemon that fails with every image condemns one of them, not a folder.
- A suspect that may bring the daemon down again waits longer each time while the others go on: it costs itself its turn only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import structlog

from edged.errors import EdgedError
from edged.flights.evidence import Evidence
from edged.flights.slots import SLOTS, Ended, Left, Slots, State, name_of
from edged.nouns import Landing

log = structlog.get_logger("edged.flights")

DEATHS: Final = 2
ALONE_S: Final = 5.0
"""So long the others wait, for a suspect to be alone and while it is: a death that concerns it comes sooner."""
DELAY_CAP_S: Final = 300.0
REASON: Final = "daemon-died"
_EXPECTED: Final = (EdgedError, FileNotFoundError, asyncio.CancelledError, KeyboardInterrupt)
"""What ends a journey, or a run, without being a bug."""


class Flights:
    """Context manager around a run. `slots`: what the run before left, and where this one tells; `evidence`: how that one ended."""

    def __init__(self, slots: Slots | None = None, evidence: Evidence | None = None, *, monotonic: Callable[[], float] = time.monotonic):
        self._slots, self._evidence, self._monotonic = slots or Slots(), evidence or Evidence(), monotonic
        self._suspects = self._slots.begin(self._judged(), self._evidence.oom_kills)
        self._opened = monotonic()
        self._flying = 0
        self._turn = asyncio.Lock()
        self._clear = asyncio.Event()  # no suspect is alone, or wants to be
        self._clear.set()
        self._landed = asyncio.Event()
        self._proven = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The run ends. An exception that no journey has raised leaves everything that was under way suspect."""
        bug = error is not None and not self._proven and _unexpected(error)
        self._slots.end(Ended.BUG if bug else Ended.WELL)

    @property
    def suspects(self) -> int:
        return len(self._suspects)

    @property
    def remembers(self) -> bool:
        """Whether the next run must know of a suspect."""
        return any(left.caused or left.unexplained for _, left in self._suspects.values())

    def due(self, landing: Landing) -> bool:
        """Whether it may take off now: a suspect may have to wait."""
        if not self._suspects or (found := self._suspects.get(_tells(landing))) is None:
            return True
        _, left = found
        tries = left.caused + left.unexplained
        return tries == 0 or self._guilty(left) or self._monotonic() - self._opened >= min(2.0**tries, DELAY_CAP_S)

    def flight(self, landing: Landing) -> Flight:
        """`async with`: around the journey and the record of one landing that is due."""
        return Flight(self, landing, self._suspects.pop(_tells(landing), None) if self._suspects else None)

    def _guilty(self, left: Left) -> bool:
        return left.caused >= DEATHS and not self._slots.condemned

    def _judged(self) -> list[Left]:
        """Whom the death of the run before concerns."""
        slots, suspects = self._slots, list[Left]()
        by_itself = slots.ended is Ended.BUG or self._evidence.crashed or self._evidence.oom_kills > slots.oom_kills
        how = "an exception that nobody expects" if slots.ended is Ended.BUG else self._evidence.words
        for left in slots.before:
            caused, unexplained = left.caused, left.unexplained
            # Of those that only waited for their turn, who was never alone at a death is none any more: else kills in a row would pile
            # them up, and a station that is killed often would do nothing but judge one image at a time.
            waited = left.state is State.SUSPECT
            if (waited or slots.ended is Ended.WELL) and not (waited and (caused or unexplained)):
                continue
            if left.state is State.ALONE and by_itself and not left.recording:
                caused += 1
            elif left.state is State.ALONE:
                unexplained += 1
            cause = left.cause or (how if caused else "")
            suspects.append(Left(left.name, left.size, left.mtime_ns, State.SUSPECT, False, min(caused, 99), min(unexplained, 99), cause))
        if suspects and slots.ended is not Ended.WELL:
            hint = "They are judged again one at a time; nothing needs to be done."
            told = [left.told for left in suspects[:20]]
            log.warning("daemon.died", cause=how or "unknown: killed from outside", under_way=len(suspects), images=told, hint=hint)
        suspects.sort(key=lambda left: (left.caused, left.unexplained), reverse=True)
        return suspects[: SLOTS // 2]

    # --- a flight's own -------------------------------------------------------------------------------------------------------
    async def take_off(self, flight: Flight) -> None:
        if flight.left is None:
            while not self._clear.is_set():
                await self._clear.wait()
            landing = flight.landing
            flight.slot = self._slots.take(name_of(landing.camera, landing.path), landing.size, landing.mtime_ns)
        elif self._guilty(flight.left):
            self._slots.condemned += 1
            flight.condemned()
        else:
            await self._go_alone(flight)
        self._flying += 1

    async def _go_alone(self, flight: Flight) -> None:
        """One suspect at a time, once the others have landed; who takes too long goes with company, and proves nothing."""
        await self._turn.acquire()
        try:
            self._clear.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(ALONE_S):
                    while self._flying:
                        self._landed.clear()
                        await self._landed.wait()
        except BaseException:
            self._others_go_on()
            raise
        assert flight.slot is not None
        flight.alone = not self._flying
        self._slots.state(flight.slot, State.ALONE if flight.alone else State.FLYING)
        flight.patience = asyncio.get_running_loop().call_later(ALONE_S, self._company, flight)

    def _company(self, flight: Flight) -> None:
        if flight.slot is not None:
            self._slots.state(flight.slot, State.FLYING)
        flight.alone, flight.patience = False, None
        self._others_go_on()

    def _others_go_on(self) -> None:
        self._clear.set()
        self._turn.release()

    def recording(self, flight: Flight) -> None:
        if flight.slot is not None:
            self._slots.state(flight.slot, State.ALONE if flight.alone else State.FLYING, recording=True)

    def land(self, flight: Flight, error: BaseException | None) -> None:
        self._flying -= 1
        self._landed.set()
        if flight.patience is not None:
            flight.patience.cancel()
            self._others_go_on()
        if flight.slot is None:
            return
        if error is None:
            self._slots.release(flight.slot)
            if flight.landing.rejected != REASON:
                self._slots.condemned = 0
        elif isinstance(error, Exception) and not isinstance(error, _EXPECTED):
            self._blame(flight, error)
        elif flight.left is not None and isinstance(error, EdgedError):  # it waits for a peer, and stays what it was
            self._slots.state(flight.slot, State.SUSPECT)
            self._suspects[_tells(flight.landing)] = flight.slot, flight.left
        elif isinstance(error, Exception):
            self._slots.release(flight.slot)
        # Else the run ends, and how it does says what this one is.

    def _blame(self, flight: Flight, error: Exception) -> None:
        """Proven: the exception came out of this image's journey. The daemon ends now, and says why."""
        assert flight.slot is not None
        landing, left = flight.landing, flight.left
        before = left or Left(name_of(landing.camera, landing.path), landing.size, landing.mtime_ns, State.SUSPECT)
        cause = f"{type(error).__name__}: {error}"
        self._slots.write(flight.slot, replace(before, state=State.SUSPECT, caused=min(before.caused + 1, 99), cause=cause))
        self._proven = True


class Flight:
    """`landing`: to be judged; it carries its rejection when the image is condemned."""

    __slots__ = ("_flights", "alone", "landing", "left", "patience", "slot")

    def __init__(self, flights: Flights, landing: Landing, suspect: tuple[int, Left] | None) -> None:
        self._flights, self.landing, self.alone = flights, landing, False
        self.slot: int | None = None
        self.left: Left | None = None
        if suspect is not None:
            self.slot, self.left = suspect
        self.patience: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._flights.take_off(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flights.land(self, error)

    def recording(self) -> None:
        """It is judged; its record begins."""
        self._flights.recording(self)

    def condemned(self) -> None:
        assert self.left is not None
        detail = f"judging it has ended edged {self.left.caused} times: {self.left.cause or 'for want of memory'}"
        log.error("flights.condemned", image=self.landing.name, camera=self.landing.camera, detail=detail, hint="Report it with the image.")
        self.landing = replace(self.landing, rejected=REASON, rejected_detail=detail)


def _tells(landing: Landing) -> tuple[bytes, int, int]:
    return name_of(landing.camera, landing.path), landing.size, landing.mtime_ns


def _unexpected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_unexpected(each) for each in error.exceptions)
    return not isinstance(error, _EXPECTED)
