"""How much room is left where the ledger lies, and what that means."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.nouns import Board, HealthStatus

SAMPLE_S = 10.0
SAMPLES = 90


class Space:
    """`short` turns true below `min_free_bytes`: then nothing more is judged."""

    def __init__(self, folder: Path, min_free_bytes: int, board: Board, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._min_free, self._board, self._monotonic = folder, min_free_bytes, board, monotonic
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self.short = False
        self.free_bytes: int | None = None

    def look(self) -> None:
        """May block as long as the disk does; called in the writer's thread."""
        try:
            seen = os.statvfs(self._folder)
        except OSError as error:
            self._board.report("disk", HealthStatus.UNKNOWN, f"The free space of {self._folder} cannot be told: {error.strerror}.")
            return
        free = self.free_bytes = seen.f_bavail * seen.f_frsize
        hours = self._hours_left(free)
        self.short = free < self._min_free
        facts: dict[str, Any] = {"free_bytes": free, "min_free_bytes": self._min_free, "hours_left": hours}
        if self.short:
            cause = f"Only {_mb(free)} are free in {self._folder}; nothing is judged below {_mb(self._min_free)}."
            hint = "Free space on this disk, or lower [ledger] retain_bytes; images wait in their folders until then."
            self._board.report("disk", HealthStatus.DOWN, cause, hint, **facts)
        elif free < 2 * self._min_free:
            when = f", at the present rate in {hours:.1f} h" if hours is not None else ""
            cause = f"{_mb(free)} are free in {self._folder}; judging stops below {_mb(self._min_free)}{when}."
            self._board.report("disk", HealthStatus.DEGRADED, cause, "Free space on this disk, or lower [ledger] retain_bytes.", **facts)
        else:
            self._board.report("disk", HealthStatus.OK, **facts)

    def _hours_left(self, free: int) -> float | None:
        """Until judging stops, by how the free space shrank in the last quarter of an hour; None while it does not."""
        now = self._monotonic()
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, free))
        (then, before) = self._samples[0]
        lost = before - free
        if lost <= 0 or now - then < SAMPLE_S:
            return None
        return round(max(0, free - self._min_free) / (lost / (now - then)) / 3600, 1)


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
