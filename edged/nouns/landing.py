"""What lies in a folder: a landing, and whose image it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edged.nouns.names import display_name


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
class Again:
    """Judged once more: `row` is the ledger's number of the landing, `judgement` the number this judgement has.

    `folder`, `path`, `mtime_ns` and `inode` say where the same bytes (`sha256`) lie now; identity goes by the landing's own place.
    """

    row: int
    judgement: int
    sha256: str
    folder: str
    path: bytes
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Landing:
    """A regular file in a watched folder, complete and settled. `path` is relative to the camera's folder.

    `rejected` names the reason when intake itself gave the image up (`truncated`); it is then recorded as ERROR without decoding.
    `late_s`: for so long after its verdict a sidecar may still tell who it is; 0: none could.
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
    again: Again | None = None
    late_s: float = 0.0

    @property
    def name(self) -> str:
        """The file name for people and messages."""
        return display_name(self.path)


@dataclass(frozen=True, slots=True)
class LateSidecar:
    """A sidecar first seen after its image was judged: the image's result `id`, and the bytes; `kind` as an identity source names it."""

    camera: str
    id: str
    path: bytes
    kind: str
    data: bytes
