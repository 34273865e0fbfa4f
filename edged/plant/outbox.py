"""What the publisher asks of the ledger: the rows that are due, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from edged.nouns import OutboxRow

Lane = Literal["fresh", "backlog"]
Announcement = tuple[str, Mapping[str, Any]]
"""Kind and data of an event message."""


class Outbox(Protocol):
    """The undelivered rows. `OutboxRow.row` only grows, and within (epoch, kind) so does `sequence`.

    A row is *due* until it is delivered, accepted, held or parked. Everything is called on the loop; none may block it. What changes rows
    returns when that is committed.
    """

    fresh: asyncio.Event
    """Set, on the loop, after each commit that made rows due; the publisher clears it. A hint only: it also looks by the clock."""
    generation: int
    """Grows when rows that the publisher has passed already are due again: it then reads from the beginning."""

    async def mark(self) -> int:
        """The newest row: what is there by now is backlog."""

    async def due(self, lane: Lane, limit: int, after: int, mark: int) -> list[OutboxRow]:
        """At most `limit` due rows behind row `after`, by number: of the backlog those up to `mark`, of the fresh ones those above it."""

    async def delivered(self, rows: Sequence[int]) -> None:
        """The broker took them, and its word is enough."""

    async def accepted(self, rows: Sequence[int], ack_timeout_s: float) -> None:
        """The broker took them; without the MES's word they are due again after a while that doubles up to 600 s."""

    async def lost(self, rows: Sequence[int]) -> None:
        """The connection went before the broker answered: one more attempt each; they stay due."""

    async def struck(self, row: int) -> int:
        """The connection went while this row was alone in flight; returns how often that has happened."""

    async def park(self, rows: Sequence[int], reason: str, announce: Announcement | None) -> None:
        """One transaction: they are put aside with `reason`, and the event is announced."""

    async def parked(self) -> tuple[int, str]:
        """How many rows are put aside, and topic and reason of the newest."""

    async def held_topics(self) -> tuple[str, ...]:
        """The topics that `hold` was called for and `release` not yet."""

    async def hold(self, topic: str, rows: Sequence[int], announce: Announcement | None) -> None:
        """Nobody subscribes: these rows wait, and so does what is recorded from now on for exactly this topic."""

    async def probe(self, topic: str) -> OutboxRow | None:
        """The oldest held row of a topic."""

    async def release(self, topic: str, announce: Announcement | None) -> None:
        """Somebody subscribes: the topic's rows are due again."""

    async def expire(self, *, everything: bool = False) -> int:
        """Accepted rows without the MES's word in time, or all accepted ones, are due again; returns how many."""

    async def acknowledge(
        self,
        epoch: str,
        kind: str,
        up_to: int,
        missing: Sequence[tuple[int, int]],
        *,
        ack_timeout_s: float,
        in_flight: Sequence[int] = (),
    ) -> int:
        """The MES has everything of (epoch, kind) up to `up_to` but the inclusive ranges in `missing`; returns how many it delivered.

        `in_flight`: rows that were sent and whose PUBACK has not come yet.
        """
