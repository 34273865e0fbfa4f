"""Files of a camera that are judged already: where their content lies, what is copied of them, and what follows them."""

from __future__ import annotations

import asyncio
import contextlib
import os

from edged.errors import Unavailable
from edged.intake.aftermath import Aftermath
from edged.intake.disposal import Disposal
from edged.intake.finding import Found, Sought, first_of
from edged.intake.folder import Folder
from edged.intake.quarantine import Quarantine, unreadable
from edged.nouns import Landing


class Judged:
    """One camera's."""

    def __init__(self, folder: Folder, disposal: Disposal, quarantine: Quarantine, aftermath: Aftermath) -> None:
        self._folder, self._disposal, self._copies, self._aftermath = folder, disposal, quarantine, aftermath

    async def find(self, sought: Sought, *, kept_only: bool = False) -> Found | None:
        """Where the content of a judged file lies now; None: nowhere. Raises Unavailable when a place cannot be looked at."""
        copies = (os.fsencode(self._copies.path_of(id_, path)) for id_ in sought.ids for path in {place for place, _ in sought.places})
        try:
            found = await asyncio.to_thread(lambda: first_of(copies, sought, lambda: None, kept=True))
        except OSError as error:
            raise unreadable(error) from None
        return found if found is not None or kept_only else await self._folder.find(sought)

    async def keep_copy(self, landing: Landing, result_id: str) -> None:
        """Of an image that was rejected when it was judged again."""
        await self._aftermath.copy(landing, result_id)

    async def sidecar_follows(self, path: bytes, moved_to: str | None) -> None:
        """One that came late goes where its image went. That it could not is no reason to fail: it stays."""
        with contextlib.suppress(OSError, Unavailable):
            await self._folder.thread.call_briefly(lambda: self._disposal.sidecar_follows(path, moved_to))
