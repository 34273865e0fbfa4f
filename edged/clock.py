"""How far the system clock can be trusted: what the kernel says of it (NTP, PTP), and whether it was set while we ran.

Invariants
- Nothing but the times that people read depends on the wall clock: waiting, retention and identity do not.
- A step is seen by comparing the wall clock with the one that counts since boot; each is told once.
- For `SETTLE_S` after a step times count as unsynced, whatever the kernel says.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from edged.errors import Unavailable
from edged.nouns import Board, HealthStatus, utc_text

STA_UNSYNC: Final = 0x0040
TIME_ERROR: Final = 5
LOOK_S: Final = 1.0
STEP_S: Final = 1.0
"""NTP slews smaller differences away; a leap second is no step."""
SETTLE_S: Final = 60.0
HINT: Final = "Look after the time service of this machine (chronyc tracking, timedatectl)."


class _Timex(ctypes.Structure):
    """The head of the kernel's `struct timex`; the rest is room."""

    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def kernel_state() -> str:
    """`synced`, `unsynced`, or `unknown` where the kernel does not tell. No daemon is asked."""
    if not hasattr(_libc, "adjtimex"):
        return "unknown"
    timex = _Timex()  # modes 0: reads, changes nothing, needs no privilege
    state = _libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        return "unknown"
    return "unsynced" if state == TIME_ERROR or timex.status & STA_UNSYNC else "synced"


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # unlike the monotonic clock it goes on while the machine sleeps


class ClockWatch:
    """`state` for messages, health item `clock`, and `event/clock-step` for each step."""

    def __init__(
        self,
        board: Board,
        *,
        kernel: Callable[[], str] = kernel_state,
        wall: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = _since_boot,
    ) -> None:
        self._board, self._kernel, self._wall, self._since_boot = board, kernel, wall, since_boot
        self._offset = wall() - since_boot()
        self._stepped: tuple[float, str] | None = None

    def state(self) -> str:
        """`synced`, `unsynced` or `unknown`, as it stands in each result."""
        return "unsynced" if self._stepped is not None else self._kernel()

    async def run(self, stop: asyncio.Event, announce: Callable[[str, Mapping[str, Any]], Awaitable[None]]) -> None:
        """Looks once a second until `stop`. A step that cannot be announced stands in health all the same."""
        while not stop.is_set():
            if (step := self.look()) is not None:
                with suppress(Unavailable):
                    await announce("clock-step", step)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    def look(self) -> dict[str, Any] | None:
        """The step since the last look, if there was one: `step_s` (positive: forward), `before`, `after`."""
        wall, boot = self._wall(), self._since_boot()
        step_s, self._offset = wall - boot - self._offset, wall - boot
        step: dict[str, Any] | None = None
        if abs(step_s) > STEP_S:
            step = {"step_s": round(step_s, 3), "before": _told(wall - step_s), "after": _told(wall)}
            way = "forward" if step_s > 0 else "back"
            self._stepped = boot, f"The system clock was set {way} by {abs(step_s):,.1f} s, to {step['after']}"
        elif self._stepped is not None and boot - self._stepped[0] >= SETTLE_S:
            self._stepped = None
        self._report()
        return step

    def _report(self) -> None:
        state = self.state()
        if self._stepped is not None:
            cause = f"{self._stepped[1]}; times in messages are marked unsynced."
            self._board.report("clock", HealthStatus.DEGRADED, cause, HINT, state=state)
        elif state == "unsynced":
            # A plant without a time service is a choice: said, but no alarm.
            self._board.report("clock", HealthStatus.UNKNOWN, "No time service keeps the system clock right.", HINT, state=state)
        else:
            self._board.report("clock", HealthStatus.OK, state=state)


def _told(wall: float) -> str:
    try:
        return utc_text(datetime.fromtimestamp(wall, UTC))
    except (OverflowError, ValueError, OSError):  # a clock beyond the years that dates know
        return f"{wall:.0f} s since 1970"
