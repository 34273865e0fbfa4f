"""Whether the ledger can be written now, said by somebody who does not wait for the disk; each change is told to the plant.

Invariants
- Runs in the loop and asks only memory: a disk that hangs holds up the writer's thread, not this.
- `event/disk` says each change of state, in order. While nothing can be written the events wait, and so does nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from edged.errors import Unavailable
from edged.ledger.space import HINT as ROOM_HINT
from edged.ledger.space import Room, Space
from edged.ledger.writer import Writer
from edged.nouns import Board, HealthStatus, utc_text

TURN_S: Final = 0.5
STALL_S: Final = 10.0
"""Nothing that the writer does takes as long on a disk that works."""
MAX_EVENTS: Final = 1000
STALL_HINT: Final = "Look at the disk of the state directory (dmesg, smartctl, fsfreeze); edged goes on by itself once it answers."


class Watch:
    """`announce` puts an event into the outbox."""

    def __init__(
        self,
        writer: Writer,
        space: Space,
        board: Board,
        announce: Callable[[str, Mapping[str, Any]], Awaitable[None]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._writer, self._space, self._board, self._announce = writer, space, board, announce
        self._monotonic, self._wall = monotonic, wall
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._told = "ok"

    @property
    def stalled_s(self) -> float:
        """How long the disk has not answered; 0.0 while it does."""
        silent_s = self._monotonic() - self._writer.beat
        return silent_s if self._writer.running and silent_s >= STALL_S else 0.0

    def trouble(self) -> tuple[str, str, str] | None:
        """State, cause and hint while nothing can be recorded."""
        if stalled_s := self.stalled_s:
            return "stalled", f"The ledger's disk has not answered for {stalled_s:.0f} s.", STALL_HINT
        if self._writer.trouble is not None:
            return "unwritable", *self._writer.trouble
        if self._space.short:
            return self._space.room, self._space.cause, ROOM_HINT
        return None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell(), name="ledger-events")
            while True:
                self._look()
                await asyncio.sleep(TURN_S)

    def _look(self) -> None:
        state, cause, hint = self.trouble() or ("tight" if self._space.room is Room.TIGHT else "ok", self._space.cause, "")
        if state == "stalled":
            self._board.report("ledger", HealthStatus.DOWN, cause, hint)
        if state != self._told:
            facts = {"free_bytes": self._space.free_bytes, "hours_left": self._space.hours_left}
            at = datetime.fromtimestamp(self._wall(), UTC)
            self._events.append({"state": str(state), "was": str(self._told), "at": utc_text(at), "cause": cause, "hint": hint, **facts})
            self._told = state

    async def _tell(self) -> None:
        while True:
            while self._events:
                event = self._events[0]
                try:
                    await self._announce("disk", event)
                except Unavailable:
                    break
                if self._events and self._events[0] is event:
                    self._events.popleft()
            await asyncio.sleep(TURN_S)
