"""What the publisher asks of the ledger: the rows that are due, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from edged.nouns import OutboxRow

Announcement = tuple[str, Mapping[str, Any]]
"""Kind and data of an event message."""


class Outbox(Protocol):
    """The undelivered rows, in the order of their commit: `OutboxRow.row` only grows, and within (epoch, kind) so does `sequence`.

    A row is *due* until it is delivered or parked. Every method is called on the loop; none may block it.

    The two lanes are the publisher's business: when it connects, it takes `newest()` as the border. Rows up to it are the backlog, rows
    behind it are fresh.
    """

    fresh: asyncio.Event
    """Set, on the loop, after each commit that made rows due; the publisher clears it. A hint only: it also looks by the clock."""

    async def newest(self) -> int:
        """The highest row number there is, 0 for an empty outbox."""

    async def due(
        self,
        limit: int,
        *,
        after_row: int = 0,
        up_to_row: int | None = None,
        topic: str | None = None,
        exclude_topics: Collection[str] = (),
    ) -> list[OutboxRow]:
        """At most `limit` due rows with `after_row` < row (<= `up_to_row`), lowest first.

        `topic`: only rows of exactly this topic; `exclude_topics`: none of these. A row that `delivered` was called for should not come
        back, even before the commit that records it.
        """

    def begun(self, rows: Iterable[int]) -> None:
        """These rows are being sent: counts one attempt for each. Does not wait; rides in the next group commit."""

    def delivered(self, row: int, reason: int) -> None:
        """The broker took this row with this PUBACK reason code. Does not wait; rides in the next group commit."""

    async def park(self, rows: Sequence[int], reason: str, announcement: Announcement | None) -> None:
        """One transaction: the rows are put aside with `reason`, never due again until re-published, and the event is announced."""

    async def announce(self, kind: str, data: Mapping[str, Any]) -> None:
        """An event row."""

    async def acknowledge(self, source: str, epoch: str, kind: str, up_to_sequence: int, missing: Sequence[tuple[int, int]]) -> int:
        """The MES has every row of (epoch, kind) up to `up_to_sequence`, except the inclusive ranges in `missing`.

        Those rows count as delivered; returns how many were due until now. An epoch that the ledger does not hold, or another source: 0.
        """
