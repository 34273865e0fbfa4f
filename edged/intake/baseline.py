"""What lay in a folder at its camera's first start, with `existing = "baseline"`: recorded as known, never judged.

Invariants
- What the first listing shows is old. Where that first start was cut off, only what has not changed since before it counts as old later, by
  the folder's own clock: a rename into the folder counts as a change, whatever mtime the file brings. In doubt a file is judged.
- The ledger says that it is under way until the last of these files is recorded.
"""

from __future__ import annotations

from collections import deque

import structlog

from edged.config import Existing
from edged.intake.folder import Folder
from edged.intake.looking import Sight
from edged.intake.recall import Recall

log = structlog.get_logger("edged.intake")


class Baseline:
    """One camera's. `names`: what was listed and is not looked at yet; `under_way`: until `end`."""

    def __init__(self, folder: Folder, recall: Recall) -> None:
        self._folder, self._recall = folder, recall
        self._before_ns: int | None = None
        self._files = 0
        self.names: deque[bytes] = deque()
        self.under_way = False

    async def begin(self) -> None:
        """Before the folder is listed for the first time since the daemon's start."""
        camera, now_ns = self._folder.camera, await self._folder.moment()
        wanted = camera.existing is Existing.BASELINE
        first = await self._recall.first_start(camera.name, str(camera.folder), now_ns if wanted else None)
        since_ns = await self._recall.baseline_since(camera.name, str(camera.folder)) if wanted else None
        self.under_way = since_ns is not None
        if since_ns is not None and not first:
            self._before_ns = since_ns if since_ns <= now_ns else 0  # a clock that was set back meanwhile tells nothing

    def holds(self, sight: Sight) -> bool:
        return self._before_ns is None or sight.changed_ns < self._before_ns

    async def record(self, sights: list[Sight]) -> None:
        await self._recall.baseline(self._folder.camera.name, [(sight.path, *sight.stamp[:2]) for sight in sights])
        self._files += len(sights)

    async def end(self) -> None:
        """All of them are recorded."""
        await self._recall.baseline_ended(self._folder.camera.name)
        self.under_way = False
        log.info("intake.baselined", camera=self._folder.camera.name, folder=str(self._folder.camera.folder), files=self._files)
