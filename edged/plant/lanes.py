"""The due rows in the order in which they are sent: fresh ones and the backlog, interleaved.

Invariants
- What was committed before `restart` is backlog, what comes after it is fresh; a fresh result never waits for the whole backlog.
- Within a lane rows come by number, so within one camera and topic by sequence.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container

from edged.nouns import OutboxRow
from edged.plant.outbox import Lane, Outbox

FRESH_PER_BACKLOG = 4


class _Reader:
    """One lane, read page by page."""

    def __init__(self, outbox: Outbox, lane: Lane, page: int) -> None:
        self._outbox, self._lane, self._page = outbox, lane, page
        self._rows: deque[OutboxRow] = deque()
        self._after = self._mark = 0
        self.dry = True

    def restart(self, mark: int) -> None:
        self._rows.clear()
        self._after, self._mark, self.dry = 0, mark, False

    async def next(self, sent: Container[int]) -> OutboxRow | None:
        while True:
            while self._rows:
                row = self._rows.popleft()
                if row.row not in sent:
                    return row
            if self.dry:
                return None
            rows = await self._outbox.due(self._lane, self._page, self._after, self._mark)
            self.dry = len(rows) < self._page
            if rows:
                self._after = rows[-1].row
                self._rows.extend(rows)

    def put_back(self, row: OutboxRow) -> None:
        self._rows.appendleft(row)


class Lanes:
    """`next` gives four fresh rows for one of the backlog, as long as there are both; `drain_max_per_s` slows the backlog alone."""

    def __init__(
        self, outbox: Outbox, page: int, drain_max_per_s: float | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._outbox, self._monotonic = outbox, monotonic
        self._fresh = _Reader(outbox, "fresh", page)
        self._backlog = _Reader(outbox, "backlog", page)
        self._pause_s = 1 / drain_max_per_s if drain_max_per_s else 0.0
        self._backlog_at = 0.0
        self._in_turn = 0
        self._taken: tuple[_Reader, OutboxRow] | None = None

    async def restart(self) -> None:
        """Reads from the beginning: rows that were passed may be due again."""
        mark = await self._outbox.mark()
        self._fresh.restart(mark)
        self._backlog.restart(mark)

    def look_again(self) -> None:
        """There may be new rows."""
        self._fresh.dry = False

    async def next(self, sent: Container[int]) -> OutboxRow | None:
        """The next row that is not in `sent`; None if nothing may be sent now."""
        order = [self._fresh, self._backlog]
        if self._in_turn >= FRESH_PER_BACKLOG:
            order.reverse()
        for reader in order:
            if reader is self._backlog and self.backlog_in_s() > 0:
                continue
            row = await reader.next(sent)
            if row is not None:
                self._taken = reader, row
                self._count(reader)
                return row
        return None

    def backlog_in_s(self) -> float:
        """How long the backlog must wait for `drain_max_per_s`; 0: not at all."""
        return max(0.0, self._backlog_at - self._monotonic())

    def put_back(self, row: OutboxRow) -> None:
        """The row that `next` gave last cannot be sent yet: it is the next one of its lane."""
        assert self._taken is not None, "next comes first"
        reader, taken = self._taken
        assert taken is row, "only the last row can be put back"
        reader.put_back(row)

    def _count(self, reader: _Reader) -> None:
        if reader is self._fresh:
            self._in_turn += 1
            return
        self._in_turn = 0
        # At most a tenth of a second is caught up: a pause must not be followed by a burst.
        self._backlog_at = max(self._backlog_at, self._monotonic() - 0.1) + self._pause_s
