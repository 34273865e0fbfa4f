"""An outbox in memory, as `edged.plant.outbox.Outbox` describes it, and a board that remembers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edged.nouns import HealthStatus, OutboxRow

BASE = "enterprise/site/area/tool/edged/v1"


@dataclass(slots=True)
class Entry:
    row: int
    kind: str
    sequence: int
    topic: str
    body: bytes
    properties: Mapping[str, str]
    state: str = "due"
    attempts: int = 0
    strikes: int = 0
    sent_at: float = 0.0
    resend_at: float = 0.0


@dataclass
class MemoryOutbox:
    """`entries` by row; `said`: the events that were announced."""

    entries: dict[int, Entry] = field(default_factory=dict)
    said: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    generation: int = 0
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    _sequences: dict[str, int] = field(default_factory=dict)

    def put(self, topic: str = f"{BASE}/result/cam1/pass", body: bytes = b"{}", kind: str = "result") -> Entry:
        row = len(self.entries) + 1
        sequence = self._sequences[kind] = self._sequences.get(kind, 0) + 1
        state = "held" if topic in self.held else "due"
        self.entries[row] = Entry(row, kind, sequence, topic, body, {"type": f"edged.{kind}", "id": f"id-{row}"}, state)
        self.fresh.set()
        return self.entries[row]

    def states(self) -> list[str]:
        return [entry.state for entry in self.entries.values()]

    async def mark(self) -> int:
        return len(self.entries)

    async def due(self, lane: str, limit: int, after: int, mark: int) -> list[OutboxRow]:
        low, high = (max(after, mark), len(self.entries)) if lane == "fresh" else (after, mark)
        found: list[OutboxRow] = []
        for row in range(low + 1, high + 1):
            if self.entries[row].state == "due":
                found.append(_row(self.entries[row], replayed=lane == "backlog"))
                if len(found) == limit:
                    break
        return found

    async def delivered(self, rows: Sequence[int]) -> None:
        await asyncio.sleep(0.001)  # a commit takes its time
        for row in rows:
            self.entries[row].state = "delivered"

    async def accepted(self, rows: Sequence[int], ack_timeout_s: float) -> None:
        for row in rows:
            entry = self.entries[row]
            if entry.state in ("due", "held"):
                entry.state, entry.sent_at = "accepted", time.monotonic()
                entry.resend_at = time.monotonic() + min(600.0, ack_timeout_s * 2**entry.attempts)
                entry.attempts += 1

    async def lost(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.entries[row].attempts += 1

    async def struck(self, row: int) -> int:
        self.entries[row].strikes += 1
        return self.entries[row].strikes

    async def park(self, rows: Sequence[int], reason: str, announce: tuple[str, Mapping[str, Any]] | None) -> None:
        for row in rows:
            self.entries[row].state = "parked"
            self.reasons[row] = reason
        self._announce(announce)

    async def parked(self) -> tuple[int, str]:
        parked = [entry for entry in self.entries.values() if entry.state == "parked"]
        return len(parked), f"{parked[-1].topic}: {self.reasons[parked[-1].row]}" if parked else ""

    async def held_topics(self) -> tuple[str, ...]:
        return tuple(self.held)

    async def hold(self, topic: str, rows: Sequence[int], announce: tuple[str, Mapping[str, Any]] | None) -> None:
        self.held.add(topic)
        for row in rows:
            self.entries[row].state = "held"
        self._announce(announce)

    async def probe(self, topic: str) -> OutboxRow | None:
        return next((_row(e, replayed=True) for e in self.entries.values() if e.state == "held" and e.topic == topic), None)

    async def release(self, topic: str, announce: tuple[str, Mapping[str, Any]] | None) -> None:
        self.held.discard(topic)
        self._announce(announce)
        self._again(lambda entry: entry.state == "held" and entry.topic == topic)

    async def expire(self, *, everything: bool = False) -> int:
        now = time.monotonic()
        return self._again(lambda entry: entry.state == "accepted" and (everything or entry.resend_at <= now))

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
        count = 0
        for entry in self.entries.values():
            if epoch != "e1" or entry.kind != kind or entry.sequence > up_to or entry.state != "accepted":
                continue
            if not any(first <= entry.sequence <= last for first, last in missing):
                entry.state = "delivered"
                count += 1
        return count

    def _announce(self, announce: tuple[str, Mapping[str, Any]] | None) -> None:
        if announce is not None:
            self.said.append(announce)
            self.put(f"{BASE}/event/{announce[0]}", repr(announce[1]).encode(), "event")

    def _again(self, which: Callable[[Entry], bool]) -> int:
        entries = [entry for entry in self.entries.values() if which(entry)]
        for entry in entries:
            entry.state = "due"
        if entries:
            self.generation += 1
            self.fresh.set()
        return len(entries)


def _row(entry: Entry, *, replayed: bool) -> OutboxRow:
    identity = (entry.row, entry.kind, "e1", entry.sequence, f"id-{entry.row}")
    return OutboxRow(*identity, entry.topic, entry.body, entry.properties, entry.attempts, replayed)


class Board:
    """Remembers every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, HealthStatus, str, str]] = []

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.reports.append((name, status, cause, hint))

    @property
    def last(self) -> tuple[HealthStatus, str, str]:
        return self.reports[-1][1:]
