"""Which (camera, recipe) pairs wait for a peer, why, and until when.

Invariants
- A hold concerns one (camera, recipe) only.
- After its backoff one image goes as a probe, and no other until that one came back. A probe that fails holds longer, one that passes ends
  the hold: a peer that refuses is asked once in a while, not by everything that waits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from edged.backoff import Backoff
from edged.errors import EdgedError


@dataclass(frozen=True, slots=True)
class Hold:
    camera: str
    recipe: str
    cause: str
    hint: str
    since: float
    until: float
    attempt: int


class Holds:
    """`ready(recipe)` says whether the recipe's models can answer at all: without them nothing is even decoded."""

    def __init__(
        self,
        ready: Callable[[str], bool],
        *,
        backoff: Backoff = Backoff(first_s=0.25, cap_s=10.0),  # noqa: B008 - frozen
        monotonic: Callable[[], float] = time.monotonic,
        sample: Callable[[], float] = random.random,
    ) -> None:
        self._ready, self._backoff, self._monotonic, self._sample = ready, backoff, monotonic, sample
        self._holds: dict[tuple[str, str], Hold] = {}
        self._probes: dict[tuple[str, str], object] = {}

    def active(self, camera: str, recipe: str) -> bool:
        """Must images of this pair wait now?"""
        if not self._ready(recipe):
            return True
        hold = self._holds.get((camera, recipe))
        return hold is not None and ((camera, recipe) in self._probes or self._monotonic() < hold.until)

    def admit(self, camera: str, recipe: str, image: object) -> bool:
        """May this image go on now? `returned` must be called for one that may."""
        if self.active(camera, recipe):
            return False
        if (camera, recipe) in self._holds:
            self._probes[camera, recipe] = image
        return True

    def returned(self, camera: str, recipe: str, image: object) -> None:
        """Whatever became of it."""
        if self._probes.get((camera, recipe)) is image:
            del self._probes[camera, recipe]

    def hold(self, camera: str, recipe: str, error: EdgedError) -> None:
        now = self._monotonic()
        before = self._holds.get((camera, recipe))
        if before is not None and now < before.until:
            return  # an image that was already under way when the hold began says nothing new
        attempt = before.attempt + 1 if before else 1
        until = now + self._backoff.delay_s(attempt, self._sample())
        since = before.since if before else now
        self._holds[camera, recipe] = Hold(camera, recipe, str(error), error.hint, since, until, attempt)

    def release(self, camera: str, recipe: str) -> None:
        self._holds.pop((camera, recipe), None)

    def snapshot(self) -> tuple[Hold, ...]:
        return tuple(self._holds.values())
