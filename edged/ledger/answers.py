"""What people ask of the ledger. A question waits for no verdict, and no verdict for it: it is answered in a thread that only reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger import read, tracing
from edged.ledger.reading import Readers

FIGURES_S: Final = 1.0
FIGURES_SHARE: Final = 50
"""Counting costs at most a fiftieth of a reader's time."""


class Answers:
    """The ledger's half that reads. What is asked of the disk may raise Unavailable or LedgerCorrupt."""

    def __init__(self, readers: Readers, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._readers, self._monotonic, self._wall = readers, monotonic, wall
        self._figures = read.Figures()

    def figures(self) -> read.Figures:
        """As of about a second ago, from memory."""
        return self._figures

    def outbox_figures(self) -> dict[str, Any]:
        figures = self._figures
        return {"undelivered": figures.undelivered, "parked": figures.rows["parked"], "oldest_s": figures.oldest_s}

    async def _count(self) -> None:
        self._figures = await self._readers.run(lambda c: read.figures(c, self._wall()))

    async def _keep_counting(self) -> None:
        """Until cancelled; a disk that hangs holds up this and nobody else."""
        while True:
            began = self._monotonic()
            # Of a file that does not read the writer tells in health; the last figures stand.
            with suppress(Unavailable, LedgerCorrupt):
                await self._count()
            await asyncio.sleep(max(FIGURES_S, FIGURES_SHARE * (self._monotonic() - began)))

    async def results(
        self,
        *,
        camera: str | None = None,
        verdict: str | None = None,
        lot: str | None = None,
        wafer: str | None = None,
        since: datetime | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Newest first, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
        return await self._readers.run(
            lambda c: read.results(c, camera=camera, verdict=verdict, lot=lot, wafer=wafer, since=since, after=after, limit=limit)
        )

    async def result(self, id_: str) -> dict[str, Any] | None:
        """The whole message."""
        body = await self._readers.run(lambda c: read.result(c, id_))
        return None if body is None else json.loads(body)

    async def trace(self, name: str) -> list[dict[str, Any]]:
        """Entries of every file of this name, oldest first."""
        return await self._readers.run(lambda c: tracing.trace(c, name))

    async def trace_lot(self, lot: str, limit: int) -> list[dict[str, Any]]:
        """The newest results of a lot, oldest first."""
        return await self._readers.run(lambda c: tracing.lot(c, lot, limit))

    async def counts(self, since: datetime) -> dict[str, int]:
        """Verdict -> how many were decided since then."""
        return await self._readers.run(lambda c: read.counts(c, since))
