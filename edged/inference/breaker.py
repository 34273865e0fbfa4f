"""A circuit breaker: after repeated failures nothing more is sent until one probe has succeeded. Pure."""

from __future__ import annotations

from enum import StrEnum


class Circuit(StrEnum):
    """`closed`: calls go out; `open`: none does; `half-open`: one probe is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after `threshold` failures in a row; one success closes it. Who owns it decides when to probe."""

    def __init__(self, threshold: int = 3) -> None:
        self.threshold = threshold
        self.failures = 0
        self.opened = 0
        self.state = Circuit.CLOSED

    def failed(self) -> bool:
        """A call failed for the peer's sake; True if this opened the circuit. A failed probe opens it again at once."""
        self.failures += 1
        opens = self.state is Circuit.HALF_OPEN or (self.state is Circuit.CLOSED and self.failures >= self.threshold)
        if opens:
            self.state = Circuit.OPEN
            self.opened += 1
        return opens

    def trip(self) -> None:
        """Opens at once: the peer is known to hang."""
        if self.state is not Circuit.OPEN:
            self.state = Circuit.OPEN
            self.opened += 1

    def probe(self) -> None:
        if self.state is Circuit.OPEN:
            self.state = Circuit.HALF_OPEN

    def succeeded(self) -> None:
        self.failures = 0
        self.state = Circuit.CLOSED
