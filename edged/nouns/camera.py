"""What is remembered of a camera besides its files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody has paused the camera."""

    by: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a camera and its folder. `known_as`: another camera, no longer watching the folder, whose files are recorded from it; only told
    while this camera was never let in. `mount`: the mount point under the folder when it was watched last, "" when it never was."""

    known_as: str | None = None
    mount: str = ""
    pause: Pause | None = None
