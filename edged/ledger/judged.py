"""What is known of a landing that was judged, and of the wish to judge it again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edged.nouns import Again, Identity, Landing, display_name


@dataclass(frozen=True, slots=True)
class Judged:
    """A landing as the ledger has it. `ids`, `bodies`: of the newest judgement's pages, the bodies parsed, none when they are pruned.

    `places`: paths below the camera's folder, each with where the file was moved to (text), newest first. `copies`: ids under which a
    copy may be in quarantine. `sha256` is empty where the content was never hashed.
    """

    row: int
    camera: str
    path: bytes
    size: int
    mtime_ns: int
    sha256: str
    detected: datetime
    judgement: int
    ids: tuple[str, ...]
    bodies: tuple[dict[str, Any], ...]
    recipe: str | None
    places: tuple[tuple[bytes, str | None], ...]
    copies: tuple[str, ...]

    @property
    def name(self) -> str:
        return display_name(self.path)

    def landing(self, again: Again, folder: Path, identity: Identity, recipe: str, sidecar: bytes | None, now: float) -> Landing:
        """As it landed, with what is known of it now; `now` is monotonic."""
        return Landing(
            camera=self.camera,
            folder=str(folder),
            path=self.path,
            size=self.size,
            mtime_ns=self.mtime_ns,
            inode=again.inode,
            identity=identity,
            recipe=recipe,
            detected=self.detected,
            settle_ms=0.0,
            settled_monotonic=now,
            sidecar=sidecar,
            again=again,
        )


@dataclass(frozen=True, slots=True)
class Rejudgement:
    """One open row. `id`: what its first page's result will have."""

    number: int
    judgement: int
    why: str  # asked | released | late
    recipe: str | None
    sidecar_kind: str | None
    sidecar: bytes | None
    id: str
    judged: Judged
