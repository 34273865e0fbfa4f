"""Images that were with a model when it stopped answering: which of them, if any, makes it hang?

Invariants
- A suspect is asked alone. Only a hang that it met alone, of a model whose golden images pass afterwards at a Triton that was there all the
  while, counts against it; at TRIES of these it is the image.
- An answer, even a late one, clears nobody else and blames nobody. A Triton that froze or went away blames nobody.
- Images are known by what they show (their tensor), so a suspect is known again when it comes back from its folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable

from edged.nouns import Tensor

TRIES = 3
MAX_SUSPECTS = 1024
FORGET_S = 3600.0
"""A suspect that has not come back for so long will not: its file was taken away."""


class Suspects:
    """One model's. Nothing is hashed while there is no suspect."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hangs: dict[bytes, int] = {}  # how often it hung alone, oldest first
        self._seen: dict[bytes, float] = {}
        self._unproven: list[bytes] = []

    def __len__(self) -> int:
        return len(self._hangs)

    def hung(self, tensors: Iterable[Tensor], *, alone: bool) -> None:
        """They were with the model when it stopped answering."""
        for tensor in tensors:
            mark = _mark(tensor)
            self._hangs.setdefault(mark, 0)
            self._seen[mark] = self._clock()
            if alone:
                self._unproven.append(mark)
        while len(self._hangs) > MAX_SUSPECTS:
            self._forget(next(iter(self._hangs)))

    def proven(self) -> None:
        """The model is well, and Triton was there all the while: the hangs since were their images' doing."""
        for mark in self._unproven:
            if mark in self._hangs:
                self._hangs[mark] += 1
        self._unproven.clear()

    def nobodys_fault(self) -> None:
        """Triton went away: what hung, hung for that."""
        self._unproven.clear()
        for mark in [each for each, hangs in self._hangs.items() if not hangs]:
            self._forget(mark)

    def suspected(self, tensor: Tensor) -> bool:
        return bool(self._hangs) and self._known(_mark(tensor))

    def guilty(self, tensor: Tensor) -> bool:
        """It made the model hang TRIES times. Says so once: whoever judges it again begins anew."""
        if not self._hangs:
            return False
        mark = _mark(tensor)
        if not self._known(mark) or self._hangs[mark] < TRIES:
            return False
        self._forget(mark)
        return True

    def cleared(self, tensor: Tensor) -> None:
        """The model answered."""
        if self._hangs:
            self._forget(_mark(tensor))

    def _known(self, mark: bytes) -> bool:
        for old in [each for each, seen in self._seen.items() if self._clock() - seen > FORGET_S]:
            self._forget(old)
        if mark not in self._hangs:
            return False
        self._seen[mark] = self._clock()
        return True

    def _forget(self, mark: bytes) -> None:
        self._hangs.pop(mark, None)
        self._seen.pop(mark, None)


def _mark(tensor: Tensor) -> bytes:
    return hashlib.blake2b(tensor.array.data, digest_size=16).digest()
