"""The nouns that travel from room to room: frozen, slotted, without behaviour.

Paths below a camera's folder travel as the bytes the file system holds: a file name need not be UTF-8.
`display_name` is the one way to show one.
Wall-clock times are aware UTC datetimes; durations come from a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from numpy.typing import NDArray


class VerdictKind(StrEnum):
    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    REVIEW = "REVIEW"
    ERROR = "ERROR"


class HealthStatus(StrEnum):
    """`ok`; `degraded`: works, but somebody should look; `down`: does not work; `unknown`: cannot be told (no driver)."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


def display_name(path: bytes) -> str:
    """A file name as safe text: invalid UTF-8 and control characters become `\\xNN`, so that it cannot inject lines or escape codes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True, slots=True)
class Material:
    """What was inspected, in the MES's words. `complete` is false when lot or wafer is unknown."""

    lot_id: str | None = None
    wafer_id: str | None = None
    slot: int | None = None
    carrier_id: str | None = None
    product: str | None = None
    step: str | None = None
    complete: bool = False
    from_: str | None = None  # which identity source gave it: sidecar-json, regex ...


@dataclass(frozen=True, slots=True)
class Die:
    x: int | None = None
    y: int | None = None
    site: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """The die's frame, in SEMI E142's words. `um_per_px` None: no micrometres in the result."""

    origin: str = "LowerLeft"
    axis: str = "UpRight"
    orientation_deg: int = 0
    notch: str = "DOWN"
    um_per_px: float | None = None
    die_pitch_um: tuple[float, float] | None = None
    # position of the image's top left pixel relative to the die's origin
    offset_um: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What intake could tell of an image before looking at its pixels. Empty when no source of the camera's list matched."""

    material: Material = Material()
    die: Die = Die()
    recipe: str | None = None
    chamber: str | None = None
    job_id: str | None = None
    operator: str | None = None
    acquired: datetime | None = None
    acquired_from: str | None = None
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """A regular file in a watched folder, complete and settled. `path` is relative to the camera's folder.

    `rejected` names the reason when intake itself gave the image up (`truncated`); it is then recorded as ERROR without decoding.
    """

    camera: str
    folder: str
    path: bytes
    size: int
    mtime_ns: int
    inode: int
    identity: Identity
    recipe: str
    detected: datetime
    settle_ms: float
    settled_monotonic: float
    rejected: str | None = None
    rejected_detail: str = ""
    sidecar: bytes | None = None
    traceparent: str | None = None

    @property
    def name(self) -> str:
        """The file name for people and messages."""
        return display_name(self.path)


@dataclass(frozen=True, slots=True)
class Geometry:
    """From model input pixels back to pixels of the original page: x_page = x * scale_x + offset_x (same for y).

    `tile` is the index of the tile in its page, `tiles` how many the page was cut into. `valid` is the [x, y, w, h] of the model input that
    shows the image (the rest is padding).
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    valid: tuple[float, float, float, float]
    tile: int = 0
    tiles: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One model input that lies in one ring slot: `array` is a read-only view, shape `dims` (C, H, W), no batch axis.

    `ring` / `offset` / `nbytes` say where it lies in the shared memory for a Triton that can map it.
    """

    model: int  # index into the recipe's models
    array: NDArray[Any]
    geometry: Geometry
    ring: str
    slot: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Of the page as decoded, before any preparation. `sharpness`: variance of the Laplacian; `mean` 0..255; fractions 0..1."""

    ok: bool
    sharpness: float
    mean: float
    saturated_frac: float
    dark_frac: float = 0.0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the decoder found in the file; `sha256` is of the whole file, the rest of this page. Unknown numbers are None."""

    sha256: str
    bytes: int
    media_type: str | None
    page: int = 0
    pages: int = 1
    width: int | None = None
    height: int | None = None
    bits: int | None = None
    channels: int | None = None
    acquired: datetime | None = None
    acquired_from: str | None = None


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


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutputs:
    """What one model said about one page. `tiles[i]` maps output name to array without batch axis; `geometries[i]` belongs to it."""

    model: ModelFacts
    tiles: tuple[Mapping[str, NDArray[Any]], ...]
    geometries: tuple[Geometry, ...]
    queue_ms: float
    infer_ms: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which model judged: goes into the result message as it is."""

    name: str
    version: str
    sha256: str
    role: str = "active"
    endpoint: str = "local"


@dataclass(frozen=True, slots=True)
class ModelScores:
    """A model's raw scores for one page: class name -> 0..1 (detection: the best confidence of each class)."""

    model: ModelFacts
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict room's answer for one page. `defect_count` is the true count when `defects` was capped."""

    kind: VerdictKind
    reason: str
    rules: str
    defects: tuple[Defect, ...] = ()
    defect_count: int = 0
    models: tuple[ModelScores, ...] = ()
    took_ms: float = 0.0


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


@dataclass(frozen=True, slots=True)
class HealthItem:
    """One dependency's health: `cause` and `hint` are sentences for the technician; `since` is when this status began."""

    name: str
    status: HealthStatus
    cause: str = ""
    hint: str = ""
    since: datetime | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputPlan:
    """How to fill one model's input: `preprocess` is the recipe's or the model's own, `dims` (C, H, W), `dtype` UINT8 or FP32.

    `reference`: the last channels are the golden reference prepared the same way (zeros where there is none).
    """

    model: str
    preprocess: Any  # edged.config.Preprocess
    dims: tuple[int, int, int]
    dtype: str = "UINT8"
    reference: bool = False


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
class PagePart:
    """What a decoder made of one page, or of as many of its tiles as there were free slots. `last`: the page is complete with this part.

    `rejected` = (reason, detail): this page cannot be judged; then there are no tensors.
    """

    image: ImageFacts
    quality: Quality | None
    tensors: tuple[Tensor, ...]
    last: bool
    preprocess_hash: str
    preprocess_steps: tuple[str, ...]
    timing_ms: Mapping[str, float]
    rejected: tuple[str, str] | None = None


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


class Composer(Protocol):
    """Makes the messages; called inside the ledger's transaction, so it must be quick and must not block."""

    def result(self, page: PageResult, numbering: Numbering) -> Envelope: ...

    def event(self, kind: str, data: Mapping[str, Any], numbering: Numbering) -> Envelope: ...


class Board(Protocol):
    """The health board: adapters report their state as often as they like; one WARN is logged for each transition."""

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None: ...
