"""How long to wait before the next try: capped, full jitter. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays grow from `first_s` by `factor` up to `cap_s`; the sample in [0, 1) picks a point in the upper half."""

    first_s: float = 0.5
    cap_s: float = 30.0
    factor: float = 2.0

    def delay_s(self, attempt: int, sample: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (1, 2, ...)."""
        # Above 64 doublings only overflow is left.
        ceiling = min(self.cap_s, self.first_s * self.factor ** min(max(attempt, 1) - 1, 64))
        return ceiling * (0.5 + 0.5 * sample)
