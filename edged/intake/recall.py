"""What intake asks of the ledger, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

Seen = tuple[bytes, int, int]
"""(path below the camera's folder, size, mtime_ns)"""

Announce = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Puts an event into the outbox: kind, data."""


class Recall(Protocol):
    """The ledger's memory of what landed. Every call may raise Unavailable; intake then waits and asks again."""

    async def known(self, camera: str, seen: Sequence[Seen]) -> set[int]:
        """Indexes of those that are recorded already."""

    async def first_start(self, camera: str, folder: str, baseline_ns: int | None = None, /) -> bool:
        """Whether this camera has never listed this folder before. `baseline_ns`: then its baseline is under way, as of this moment."""

    async def baseline_since(self, camera: str, folder: str, /) -> int | None:
        """The moment of a baseline of this folder that is under way."""

    async def baseline_ended(self, camera: str, /) -> None:
        """All of it is recorded."""

    async def baseline(self, camera: str, seen: Sequence[Seen]) -> None:
        """Record as known without a result."""

    async def awaiting(self, camera: str, stems: Sequence[bytes]) -> Sequence[tuple[bytes, str]]:
        """(path, result id) of images that were judged without a sidecar of one of these stems, and for which one may still come."""

    async def vanished(self, camera: str, path: bytes) -> None:
        """A known file is no longer in the folder, and not through us."""

    async def pending_disposal(self, camera: str) -> Sequence[tuple[Any, ...]]:
        """Judged files whose `after` is not done yet: path, size, mtime_ns, sha256, id, and the verdict and its reason."""

    async def disposed(self, camera: str, path: bytes, result_id: str, outcome: str, new_path: str | None, /) -> None:
        """`outcome`: kept, moved, deleted, replaced (the name holds another file by now), gone."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A file that is still being written, or waits for something: `why` says what for."""

    name: str
    since: datetime
    why: str = ""


@dataclass(frozen=True, slots=True)
class CameraSnapshot:
    """One camera at one moment. `waiting`: images in the folder not judged yet, `in_flight` aside. `mode`: inotify or poll, as in use."""

    name: str
    folder: str
    recipe: str
    mode: str
    waiting: int
    in_flight: int
    writing: tuple[Writing, ...]
    ignored: int
    overflows: int
    last_name: str | None
    last_seen: datetime | None
    stalled_since: datetime | None
    known: int
    reconcile_took_s: float
