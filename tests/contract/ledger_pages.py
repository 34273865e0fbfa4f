"""Landings and verdicts to record, and a ledger on a real file."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edged.config import Ledger as LedgerConfig
from edged.config import Station
from edged.ledger import Ledger
from edged.nouns import (
    Defect,
    HealthStatus,
    Identity,
    ImageFacts,
    Landing,
    Material,
    ModelFacts,
    ModelScores,
    PageResult,
    Quality,
    Verdict,
    VerdictKind,
)
from edged.plant.messages import Messages

STATION = Station(enterprise="acme", site="fab2", area="litho", tool="INSP07", instance="a")
BASE = "acme/fab2/litho/INSP07/edged/v1"
NOW = datetime(2026, 11, 24, 3, 0, 0, 412000, tzinfo=UTC)


@dataclass
class HeardBoard:
    """The last report of each item."""

    last: dict[str, tuple[HealthStatus, str, str]] = field(default_factory=dict)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.last[name] = (status, cause, hint)

    def status(self, name: str) -> HealthStatus | None:
        return self.last[name][0] if name in self.last else None


def messages() -> Messages:
    return Messages(STATION, BASE, {})


def page(
    path: bytes = b"a.png",
    content: bytes = b"pixels",
    *,
    camera: str = "cam1",
    mtime_ns: int = 1_000,
    verdict: VerdictKind = VerdictKind.PASS,
    reason: str = "no-defects",
    number: int = 0,
    pages: int = 1,
    lot: str | None = "L1",
    wafer: str | None = "W1",
    judgement: int = 0,
    recipe: str = "r1",
    **landing: Any,
) -> PageResult:
    """One page of a file of this content."""
    material = Material(lot_id=lot, wafer_id=wafer, complete=lot is not None, from_="regex")
    seen = Landing(camera, "/drop", path, len(content), mtime_ns, 7, Identity(material=material), recipe, NOW, 310.0, 0.0, **landing)
    image = ImageFacts(hashlib.sha256(content).hexdigest(), len(content), "image/png", number, pages, 640, 480, 8, 1)
    defects = (Defect("particle", 0.93, (1.0, 2.0, 3.0, 4.0)),) if verdict is VerdictKind.FAIL else ()
    facts = ModelFacts("wafer_pattern", "1", "9f" * 32)
    told = Verdict(verdict, reason, "r1@1", defects, len(defects), (ModelScores(facts, {"none": 0.9, "particle": 0.05}),))
    quality = Quality(True, 212.4, 118.2, 0.0004)
    timing = {"settle": 310.0, "decode": 3.1, "infer": 6.4, "total": 716.0}
    return PageResult(seen, image, told, quality, "b71e", ("gray", "resize640"), timing, NOW, judgement)


def touched(one: PageResult, **changes: Any) -> PageResult:
    """The same page, with another path, mtime ... of its landing."""
    return replace(one, landing=replace(one.landing, **changes))


@asynccontextmanager
async def opened(folder: Path, board: HeardBoard | None = None, **config: Any) -> AsyncIterator[Ledger]:
    clocks = {name: config.pop(name) for name in ("wall", "monotonic", "tick_s") if name in config}
    settings = LedgerConfig(**{"min_free_bytes": 0, **config})
    async with Ledger.open(folder, settings, messages(), board or HeardBoard(), source=STATION.source, **clocks) as ledger:
        yield ledger
