"""Whether the process may still open files and start threads: found out by doing it, since limits may be changed while it runs."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import threading
from contextlib import suppress
from typing import Final

from edged.nouns import Board, HealthStatus

LOOK_S: Final = 2.0
FILES_HINT: Final = "Raise LimitNOFILE in the unit of edged; nothing is lost, and it goes on by itself."
TASKS_HINT: Final = "Raise TasksMax in the unit of edged, or its user's limit of processes; nothing is lost, and it goes on by itself."


class LimitWatch:
    """Health item `process`."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    def look(self) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if cause := _no_more_files(limit):
            self._board.report("process", HealthStatus.DEGRADED, cause, FILES_HINT, file_limit=limit)
        elif cause := _no_more_tasks():
            self._board.report("process", HealthStatus.DEGRADED, cause, TASKS_HINT, file_limit=limit)
        else:
            self._board.report("process", HealthStatus.OK, file_limit=limit)


def _no_more_files(limit: int) -> str:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENFILE:
            return "This machine can open no more files, so edged cannot read images or take connections."
        return f"edged may open {limit} files and has them all open, so it cannot read images or take connections."
    return ""


def _no_more_tasks() -> str:
    probe = threading.Thread(target=lambda: None, name="probe", daemon=True)
    try:
        probe.start()
    except RuntimeError:
        return "edged can start no more threads and processes: what ends meanwhile cannot be replaced."
    return ""
