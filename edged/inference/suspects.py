"""Images that were with a model when it stopped answering, or when Triton ended: which of them, if any, is to blame?

Invariants
- A suspect is asked alone. Only a hang that it met alone, of a model whose golden images pass afterwards at a Triton that was there all the
  while, counts against it; at TRIES of these it is the image.
- Only a death that it met as the one thing that we had Triton do, with golden images that pass once Triton is back, counts against it; at
  TRIES of these it is the image. A restart that somebody else makes does not meet one image alone three times: an answer clears it.
- An answer, even a late one, clears nobody else and blames nobody. A Triton that froze or went away blames nobody.
- Images are known by what they show (their tensor), so a suspect is known again when it comes back from its folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edged.nouns import Tensor

TRIES = 3
MAX_SUSPECTS = 1024
FORGET_S = 3600.0
"""A suspect that has not come back for so long will not: its file was taken away."""


@dataclass(slots=True)
class _Suspect:
    """`hangs`, `deaths`: how often the model hung, or Triton ended, when it was alone there. `at_death`: it was there when Triton ended."""

    seen: float
    hangs: int = 0
    deaths: int = 0
    at_death: bool = False


class Suspects:
    """One model's. Nothing is hashed while there is no suspect."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[bytes, _Suspect] = {}  # oldest first
        self._hung: list[bytes] = []
        self._died: list[bytes] = []

    def __len__(self) -> int:
        return len(self._known)

    def hung(self, tensors: Iterable[Tensor], *, alone: bool) -> None:
        """They were with the model when it stopped answering."""
        for tensor in tensors:
            mark, _ = self._suspect(tensor)
            if alone:
                self._hung.append(mark)
        self._bound()

    def died(self, tensors: Iterable[Tensor], *, alone: bool) -> None:
        """They were with Triton when it ended."""
        for tensor in tensors:
            mark, suspect = self._suspect(tensor)
            suspect.at_death = True
            if alone:
                self._died.append(mark)
        self._bound()

    @property
    def deaths(self) -> int:
        """Deaths that one image met alone and that nobody has looked into yet."""
        return len(self._died)

    def survived(self) -> None:
        """It was no death: the connection was lost."""
        self._died.clear()

    def proven(self) -> None:
        """The model is well, and Triton was there all the while or is there again: hangs and deaths since were their images' doing."""
        for mark in self._hung:
            if mark in self._known:
                self._known[mark].hangs += 1
        for mark in self._died:
            if mark in self._known:
                self._known[mark].deaths += 1
        self._hung.clear()
        self._died.clear()

    def nobodys_fault(self) -> None:
        """Triton went away: what hung, hung for that."""
        self._hung.clear()
        for mark in [mark for mark, each in self._known.items() if not (each.hangs or each.at_death)]:
            del self._known[mark]

    def suspected(self, tensor: Tensor) -> bool:
        return bool(self._known) and self._seen(tensor) is not None

    def guilty(self, tensor: Tensor) -> str:
        """What it did TRIES times, alone: "hangs" or "deaths"; "" if nothing. Says so once: whoever judges it again begins anew."""
        if not self._known or (suspect := self._seen(tensor)) is None:
            return ""
        did = "hangs" if suspect.hangs >= TRIES else "deaths" if suspect.deaths >= TRIES else ""
        if did:
            self.cleared(tensor)
        return did

    def cleared(self, tensor: Tensor) -> None:
        """The model answered."""
        if self._known:
            self._known.pop(_mark(tensor), None)

    def _suspect(self, tensor: Tensor) -> tuple[bytes, _Suspect]:
        mark = _mark(tensor)
        suspect = self._known.setdefault(mark, _Suspect(self._clock()))
        suspect.seen = self._clock()
        return mark, suspect

    def _seen(self, tensor: Tensor) -> _Suspect | None:
        now = self._clock()
        for old in [mark for mark, suspect in self._known.items() if now - suspect.seen > FORGET_S]:
            del self._known[old]
        if (suspect := self._known.get(_mark(tensor))) is not None:
            suspect.seen = now
        return suspect

    def _bound(self) -> None:
        while len(self._known) > MAX_SUSPECTS:
            del self._known[next(iter(self._known))]


def _mark(tensor: Tensor) -> bytes:
    return hashlib.blake2b(tensor.array.data, digest_size=16).digest()
