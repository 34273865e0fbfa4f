"""How well a dependency is, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class HealthStatus(StrEnum):
    """`ok`; `degraded`: works, but somebody should look; `down`: does not work; `unknown`: cannot be told (no driver)."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HealthItem:
    """One dependency's health: `cause` and `hint` are sentences for the technician; `since` is when this status began."""

    name: str
    status: HealthStatus
    cause: str = ""
    hint: str = ""
    since: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Board(Protocol):
    """The health board: adapters report their state as often as they like; one WARN is logged for each transition."""

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None: ...
