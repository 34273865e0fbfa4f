"""[[camera]]: one watched folder, how names tell identity, and what happens to a file afterwards."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from edged.config.station import Section, Segment
from edged.nouns import Frame

IDENTITY_FIELDS = frozenset(
    (
        *("lot_id", "wafer_id", "slot", "carrier_id", "product", "step", "die_x", "die_y", "site"),
        *("recipe", "chamber", "job_id", "operator", "acquired"),
    )
)
"""Names an identity source may set: regex groups, template fields, sidecar keys."""


class WatchMode(StrEnum):
    """`auto` reads the mount type: inotify as a hint on local file systems, polling alone on SMB, NFS and FUSE."""

    AUTO = "auto"
    INOTIFY = "inotify"
    POLL = "poll"


class After(StrEnum):
    """What happens to a judged file, always after its verdict is committed."""

    KEEP = "keep"
    MOVE = "move"
    DELETE = "delete"


class Existing(StrEnum):
    """What a camera's first start does with files already in the folder: judge them, or record them as known."""

    JUDGE = "judge"
    BASELINE = "baseline"


class IdentityKind(StrEnum):
    SIDECAR_JSON = "sidecar-json"
    SIDECAR_XML = "sidecar-xml"
    PATH_TEMPLATE = "path-template"
    REGEX = "regex"


class IdentitySource(Section):
    """One way to tell lot, wafer and die; a camera tries its list in order and takes the first that matches.

    `regex`: named groups, searched in the path relative to the folder. `path-template`: `{lot_id}/{wafer_id}/{die_x}_{die_y}_{*}`.
    Sidecars have the image's stem; `keys` maps our field names to dotted paths in the file where they differ.
    """

    kind: IdentityKind
    pattern: str | None = None
    keys: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _pattern_fits_kind(self) -> IdentitySource:
        if self.kind in (IdentityKind.REGEX, IdentityKind.PATH_TEMPLATE) and not self.pattern:
            raise ValueError(f"an identity source of kind {self.kind} needs a pattern")
        if self.kind is IdentityKind.REGEX and self.pattern:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise ValueError(f"the pattern is no regular expression: {error}") from None
            if unknown := sorted(set(groups) - IDENTITY_FIELDS):
                raise ValueError(f"unknown named groups {', '.join(unknown)}; known are {', '.join(sorted(IDENTITY_FIELDS))}")
        return self

    @field_validator("keys")
    @classmethod
    def _known_fields(cls, keys: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(keys) - IDENTITY_FIELDS):
            raise ValueError(f"unknown fields {', '.join(unknown)}; known are {', '.join(sorted(IDENTITY_FIELDS))}")
        return keys


class FrameSection(Section):
    """The die frame of this camera's images (SEMI E142 words); without `um_per_px` results carry pixels only."""

    origin: Literal["LowerLeft", "LowerRight", "UpperLeft", "UpperRight", "Center"] = "LowerLeft"
    axis: Literal["UpRight", "UpLeft", "DownRight", "DownLeft"] = "UpRight"
    orientation_deg: Literal[0, 90, 180, 270] = 0
    notch: Literal["DOWN", "UP", "LEFT", "RIGHT"] = "DOWN"
    um_per_px: float | None = Field(None, gt=0)
    die_pitch_um: tuple[float, float] | None = None
    offset_um: tuple[float, float] | None = None


class Camera(Section):
    """One watched folder. A file belongs to the first camera in config order whose folder and globs match."""

    name: Segment
    folder: Path
    recursive: bool = False
    include: tuple[str, ...] = ("*.jpg", "*.jpeg", "*.png", "*.bmp", "*.tif", "*.tiff")
    exclude: tuple[str, ...] = (".*", "~*")
    mode: WatchMode = WatchMode.AUTO
    poll_s: float = Field(2.0, ge=0.05)
    reconcile_s: float = Field(300.0, ge=0.1)
    settle_s: float | None = Field(None, ge=0)
    after: After = After.KEEP
    move_to: Path | None = None
    done_retain_days: float | None = Field(None, gt=0)
    done_retain_files: int | None = Field(None, ge=1)
    done_retain_bytes: int | None = Field(None, ge=0)
    existing: Existing = Existing.JUDGE
    recipe: str
    identity: tuple[IdentitySource, ...] = ()
    frame: FrameSection | None = None
    incomplete_after_s: float = Field(300.0, gt=0)
    sidecar_wait_s: float | None = Field(None, ge=0)
    sidecar_late_s: float = Field(86_400.0, ge=0)

    @model_validator(mode="after")
    def _done_needs_move(self) -> Camera:
        limits = [name for name in ("done_retain_days", "done_retain_files", "done_retain_bytes") if getattr(self, name) is not None]
        if limits and self.after is not After.MOVE:
            raise ValueError(f"{limits[0]} limits what lies in the dated folders: it needs after = 'move'")
        return self

    @property
    def die_frame(self) -> Frame | None:
        """None: nobody told how the images lie on the die."""
        return None if self.frame is None else Frame(**self.frame.model_dump())

    @property
    def sidecars(self) -> bool:
        return any(source.kind in (IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML) for source in self.identity)

    @property
    def effective_sidecar_wait_s(self) -> float:
        """0, or 10 s when a sidecar is among the identity sources."""
        return self.sidecar_wait_s if self.sidecar_wait_s is not None else (10.0 if self.sidecars else 0.0)

    @property
    def effective_move_to(self) -> Path:
        return self.move_to or self.folder / ".done"
