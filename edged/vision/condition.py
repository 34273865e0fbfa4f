"""What the health board is told of the decoder processes: lost ones, ones that do not start, and when all is well again."""

from __future__ import annotations

from edged.backoff import Backoff
from edged.nouns import Board, HealthStatus
from edged.vision.members import Request

TROUBLE_S = 60.0
NAME = "decoders"


class Condition:
    """Counts deaths and failed starts; `may_start` keeps a process that cannot start from being started without pause."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._backoff = Backoff(first_s=0.5, cap_s=30.0)
        self._failed_starts = 0
        self._start_after = 0.0
        self._trouble_until: float | None = None
        self.deaths = 0

    def may_start(self, now: float) -> bool:
        return now >= self._start_after

    def started(self, processes: int) -> None:
        self._failed_starts = 0
        if self._trouble_until is None:
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
            self._board.report(NAME, HealthStatus.OK, processes=processes, deaths=self.deaths)
