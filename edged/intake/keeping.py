"""One camera's judged images and rejected copies, kept below their limits. Every ten minutes, in the folder's thread."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

import structlog

from edged.config import Camera
from edged.intake.aftermath import Aftermath
from edged.intake.quarantine import Quarantine
from edged.intake.thread import FolderThread
from edged.shelf import DatedShelf, Limits

log = structlog.get_logger("edged.intake")

EVERY_S: Final = 600.0
TROUBLE: Final = "keeping"


class Keeping:
    """`trouble` of the aftermath says what cannot be listed or deleted."""

    def __init__(self, camera: Camera, thread: FolderThread, quarantine: Quarantine, aftermath: Aftermath) -> None:
        self._camera, self._thread, self._quarantine, self._aftermath = camera, thread, quarantine, aftermath
        self._limits = Limits(camera.done_retain_days, camera.done_retain_files, camera.done_retain_bytes)
        self._done = DatedShelf(camera.effective_move_to, self._limits)
        self._due = 0.0

    async def turn(self) -> None:
        """A piece of what is due. Unavailable: the folder hangs."""
        if time.monotonic() < self._due:
            return
        try:
            gone, more = await self._thread.call_briefly(self._round)
        except OSError as error:
            self._aftermath.trouble[TROUBLE] = (
                f"{self._camera.effective_move_to} cannot be kept below its limits: {error.strerror or error}"
            )
            gone, more = 0, False
        else:
            self._aftermath.trouble.pop(TROUBLE, None)
        if gone:
            log.info("intake.kept_no_longer", camera=self._camera.name, files=gone)
        self._due = 0.0 if more else time.monotonic() + EVERY_S

    def _round(self) -> tuple[int, bool]:
        with suppress(OSError):  # told where a copy cannot be made
            self._quarantine.prune()
        return self._done.prune(self._thread.tick)
