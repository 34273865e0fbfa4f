"""Asking one model about one page, with the second tries that are nobody's fault or must be proven somebody's.

- An answer that no model may give: three tries, alone, with the golden images after each. They fail: it is the model; they pass: the image.
- An image that made the model hang three times, alone, while Triton and the golden images were well: it is the image.
- A model that Triton no longer has: one more try after it was loaded again.
- Everything else ends the page's turn at once: it comes again when the peer is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edged.errors import EdgedError, ModelMismatch, ModelOutputInvalid
from edged.inference.answers import Row
from edged.inference.batching import Batcher
from edged.inference.client import CallFailed
from edged.inference.slots import Entry, Release
from edged.nouns import Tensor

TRIES = 3


class Model(Protocol):
    """The model's keeper. All of them raise ModelMismatch or Unavailable."""

    def require_ready(self) -> None: ...

    async def loaded_again(self) -> None: ...

    async def golden_again(self, answered: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The rows of one page's tensors, in their order, and how long the slowest of them waited and took."""

    rows: tuple[Row, ...]
    queue_ms: float
    infer_ms: float


async def ask(label: str, model: Model, batcher: Batcher, tensors: Sequence[Tensor], release: Release) -> Asked:
    """Unavailable, ModelMismatch, ModelOutputInvalid; in every case each slot is released exactly once, when it is safe."""
    entries = [Entry(tensor, release) for tensor in tensors]
    if not entries:
        return Asked((), 0.0, 0.0)
    try:
        await _answer_all(label, model, batcher, entries)
        rows = tuple(entry.answer.result() for entry in entries if entry.answer is not None)
        queue_ms = 1000 * max(entry.sent - entry.queued for entry in entries)
        return Asked(rows, queue_ms, 1000 * max(entry.answered - entry.sent for entry in entries))
    finally:
        for entry in entries:
            batcher.withdraw(entry)
            entry.leave()


async def _answer_all(label: str, model: Model, batcher: Batcher, entries: Sequence[Entry]) -> None:
    if (guilty := next(filter(None, map(batcher.guilty, entries)), None)) is not None:
        model.require_ready()
        await model.golden_again(batcher.now)
        raise guilty
    todo, tries, reloaded = list(entries), 1, False
    while todo:
        model.require_ready()
        errors = await _errors([(entry, batcher.submit(entry)) for entry in todo])
        todo = list(errors)
        invalid: ModelOutputInvalid | None = None
        for error in errors.values():
            if isinstance(error, ModelOutputInvalid):
                invalid = error
            elif not isinstance(error, CallFailed):
                raise error
        if any(isinstance(error, CallFailed) for error in errors.values()):
            if reloaded:
                raise ModelMismatch(label, "Triton has unloaded it again", "Find out who unloads models at Triton.")
            reloaded = True
            await model.loaded_again()
        elif invalid is not None:
            await model.golden_again(max(entry.answered for entry in todo))
            tries += 1
            if tries > TRIES:
                raise invalid
            for entry in todo:
                entry.alone = True


async def _errors(answers: Sequence[tuple[Entry, asyncio.Future[Row]]]) -> dict[Entry, EdgedError | CallFailed]:
    """Waits for every answer; those that are errors, in order. CallFailed: the model is gone."""
    errors: dict[Entry, EdgedError | CallFailed] = {}
    for entry, answer in answers:
        try:
            await answer
        except (EdgedError, CallFailed) as error:
            errors[entry] = error
    return errors
