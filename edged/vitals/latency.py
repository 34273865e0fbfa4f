"""How long the stages took lately: exact quantiles over the newest samples.

Invariants
- At most `keep` samples a stage are held; the oldest goes first.
- Samples may be added from any thread (a deque's append is atomic).
"""

from __future__ import annotations

import math
from collections import deque


class LatencyWindow:
    """The last `keep` durations of each stage, in seconds."""

    def __init__(self, keep: int = 2048) -> None:
        self._keep = keep
        self._stages: dict[str, deque[float]] = {}

    def add(self, stage: str, seconds: float) -> None:
        self._stages.setdefault(stage, deque(maxlen=self._keep)).append(seconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """`{stage: {count, p50_ms, p95_ms, p99_ms, max_ms}}` over the window; `count` is how many samples it holds."""
        return {stage: _summary(sorted(samples.copy())) for stage, samples in list(self._stages.items())}


def _summary(ordered: list[float]) -> dict[str, float]:
    return {
        "count": len(ordered),
        **{f"p{percent}_ms": round(_nearest_rank(ordered, percent) * 1000, 3) for percent in (50, 95, 99)},
        "max_ms": round(ordered[-1] * 1000, 3),
    }


def _nearest_rank(ordered: list[float], percent: int) -> float:
    """The smallest sample that at least `percent` per cent of the samples do not exceed."""
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
