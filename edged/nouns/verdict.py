"""What the models said, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from edged.nouns.image import Geometry, ImageFacts, Quality
from edged.nouns.landing import Landing


class VerdictKind(StrEnum):
    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    REVIEW = "REVIEW"
    ERROR = "ERROR"


LOCAL = "local"
"""The name of the first endpoint, the station's own Triton."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which model judged: goes into the result message as it is. `endpoint`: LOCAL, or the address of a Triton further away."""

    name: str
    version: str
    sha256: str
    role: str = "active"
    endpoint: str = LOCAL


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What a deployed model takes and gives, from its manifest. Output roles: scores; boxes, scores, labels; heatmap."""

    name: str
    version: str
    sha256: str
    kind: str  # classification | detection | segmentation
    classes: tuple[str, ...]
    background: str | None
    outputs: Mapping[str, str]  # role -> output name
    max_batch_size: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutputs:
    """What one model said about one page. `tiles[i]` maps output name to array without batch axis; `geometries[i]` belongs to it."""

    model: ModelFacts
    tiles: tuple[Mapping[str, NDArray[Any]], ...]
    geometries: tuple[Geometry, ...]
    queue_ms: float
    infer_ms: float


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect on one page. `box_px` = x, y, w, h from the page's top left pixel, x right, y down; None: the whole image."""

    name: str
    confidence: float
    box_px: tuple[float, float, float, float] | None = None
    area_px: float | None = None
    rel_um: tuple[float, float] | None = None
    size_um: tuple[float, float] | None = None
    class_no: int | None = None
    rough_bin: int | None = None
    fine_bin: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ModelScores:
    """A model's raw scores for one page: class name -> 0..1 (detection: the best confidence of each class)."""

    model: ModelFacts
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict room's answer for one page. `defect_count`: the true count when `defects` was capped; `detail`: an ERROR in words."""

    kind: VerdictKind
    reason: str
    rules: str
    defects: tuple[Defect, ...] = ()
    defect_count: int = 0
    models: tuple[ModelScores, ...] = ()
    took_ms: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PageResult:
    """Everything about one page that the ledger records and the message says, before the ledger gives it a sequence."""

    landing: Landing
    image: ImageFacts
    verdict: Verdict
    quality: Quality | None
    preprocess_hash: str | None
    preprocess_steps: tuple[str, ...]
    timing_ms: Mapping[str, float]
    decided: datetime
    judgement: int = 0
    supersedes: str | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    opencv: str | None = None  # which prepared it, where it was not the one that runs now
