"""What the ledger numbers and the plant is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from edged.nouns.verdict import PageResult, VerdictKind


class Recording(StrEnum):
    """What the ledger did with a landing: recorded it; or it is known (same id), the same landing touched, or the same landing renamed."""

    RECORDED = "recorded"
    KNOWN = "known"
    SAME = "same"
    RENAMED = "renamed"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The ledger's answer to `record`: one id a page (the earlier ids where nothing new was recorded)."""

    outcome: Recording
    ids: tuple[str, ...]
    kinds: tuple[VerdictKind, ...] = ()


@dataclass(frozen=True, slots=True)
class Numbering:
    """What only the ledger's transaction can give a message: identity and place in the sequence."""

    id: str
    epoch: str
    kind: str  # result | wafer | event
    sequence: int
    duplicate_of: str | None = None
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message ready for the outbox: it never changes afterwards."""

    topic: str
    body: bytes
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One undelivered message. `attempt` counts sendings begun before this one; `replayed` marks the backlog lane and re-publications."""

    row: int
    kind: str
    epoch: str
    sequence: int
    id: str
    topic: str
    body: bytes
    properties: Mapping[str, str]
    attempt: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Somebody changed the station's state. `what` as in `cameras.pause`, to `target`; the state before and after."""

    who: str
    role: str
    what: str
    target: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


class Composer(Protocol):
    """Makes the messages; called inside the ledger's transaction, so it must be quick and must not block."""

    def result(self, page: PageResult, numbering: Numbering) -> Envelope: ...

    def event(self, kind: str, data: Mapping[str, Any], numbering: Numbering) -> Envelope: ...
