"""What the health board is told of the decoder processes: lost ones, ones that do not start, and when all is well again."""

from __future__ import annotations

from edged.backoff import Backoff
from edged.nouns import Board, HealthStatus
from edged.vision.members import Request

TROUBLE_S = 60.0
NAME = "decoders"
UNFILTERED_HINT = "Let edged call seccomp(2) (the container's profile, the unit's SystemCallFilter=), or use a kernel that has it."


class Condition:
    """Counts deaths and failed starts; `may_start` keeps a process that cannot start from being started without pause."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._backoff = Backoff(first_s=0.5, cap_s=30.0)
        self._failed_starts = 0
        self._start_after = 0.0
        self._trouble_until: float | None = None
        self._unfiltered = ""
        self.deaths = 0

    def may_start(self, now: float) -> bool:
        return now >= self._start_after

    def started(self, processes: int, unfiltered: str = "") -> None:
        """`unfiltered`: why the process may call all of the kernel, empty when it may not."""
        self._failed_starts = 0
        self._unfiltered = unfiltered
        if self._trouble_until is None:
            self._well(processes)

    def _well(self, processes: int) -> None:
        if self._unfiltered:
            cause = f"decoder processes run without their filter of system calls: {self._unfiltered}"
            self._board.report(NAME, HealthStatus.DEGRADED, cause, UNFILTERED_HINT, processes=processes, deaths=self.deaths)
        else:
            self._board.report(NAME, HealthStatus.OK, processes=processes, deaths=self.deaths)

    def start_failed(self, cause: str, now: float) -> None:
        self._failed_starts += 1
        self._start_after = now + self._backoff.delay_s(self._failed_starts, 0.5)
        self._board.report(NAME, HealthStatus.DOWN, f"a decoder process does not start: {cause}", "Run `edged doctor`.")

    def lost(self, request: Request, now: float) -> None:
        """A process died, or had to be killed, on this request."""
        self.deaths += 1
        self._trouble_until = now + TROUBLE_S
        name = request.job.path.encode("utf-8", "backslashreplace").decode()
        self._board.report(
            NAME,
            HealthStatus.DEGRADED,
            f"a decoder process was lost on {name!r} of camera {request.camera}",
            "It was replaced. If this goes on, look at the images in quarantine.",
            deaths=self.deaths,
        )

    def look(self, processes: int, now: float) -> None:
        """A minute without a loss: all is well again."""
        if self._trouble_until is not None and now > self._trouble_until:
            self._trouble_until = None
            self._well(processes)
