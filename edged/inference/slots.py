"""One tensor on its way through Triton, and the slot it lies in.

Invariants
- A slot is released exactly once, and never while `in_hand`: while Triton may still read it.
- `in_hand` ends when Triton answered, when the request never left, or when the region it named is gone from Triton.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edged.errors import EdgedError
from edged.inference.answers import Row
from edged.nouns import Tensor

Release = Callable[[Tensor], None]


class Entry:
    """`answer` gets the row, or the error that its request ended with. `alone`: no other may share its request. `suspect`: while it is
    with the model, nothing else is.

    `queued`, `sent`, `answered` are monotonic seconds of the latest try.
    """

    __slots__ = ("_left", "_release", "alone", "answer", "answered", "in_hand", "queued", "sent", "suspect", "tensor")

    def __init__(self, tensor: Tensor, release: Release) -> None:
        self.tensor = tensor
        self.answer: asyncio.Future[Row] | None = None
        self.alone = self.suspect = False
        self.in_hand = False
        self.queued = self.sent = self.answered = 0.0
        self._release: Release | None = release
        self._left = False

    @property
    def awaited(self) -> bool:
        """Its caller still waits for this try's answer: the slot holds what was sent."""
        return not self._left and self.answer is not None and not self.answer.done()

    def resolve(self, row: Row) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(row)

    def reject(self, error: EdgedError | Exception) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever waited may have left: not a warning of asyncio's

    def returned(self) -> None:
        """Triton can no longer touch the slot."""
        self.in_hand = False
        if self._left:
            self._free()

    def leave(self) -> None:
        """Its caller is done with it."""
        self._left = True
        if not self.in_hand:
            self._free()

    def _free(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release(self.tensor)
