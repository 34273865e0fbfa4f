"""Whether a camera may judge what lies in its folder: not while somebody has paused it, and not before its folder is known to be its own.

Invariants
- Before the first listing the ledger is asked what it knows of camera and folder; until the answer is good nothing is listed or judged.
- A paused camera goes on listing and settling files, and sends nothing. The pause is in the ledger before it counts here, and outlives us.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from edged.config import Camera
from edged.errors import Unavailable
from edged.nouns import Pause, Standing, utc_text


class Standings(Protocol):
    """The ledger's memory of cameras. Every call may raise Unavailable."""

    async def standing(self, camera: str, watching: Mapping[str, str]) -> Standing: ...
    async def let_in(self, camera: str, folder: str, mount: str) -> None: ...
    async def pause(self, camera: str, by: str) -> Pause: ...
    async def resume(self, camera: str) -> None: ...


class Gate:
    """One camera's. `watching`: the folder of every configured camera, by `folder_text`."""

    def __init__(self, camera: Camera, watching: Mapping[str, str], standings: Standings) -> None:
        self._camera, self._watching, self._standings = camera.name, watching, standings
        self._what, self._folder = f"folder:{camera.name}", folder_text(camera)
        self.pause: Pause | None = None

    async def enter(self, mount: str) -> None:
        """Before the first listing, with the mount point under the folder. Raises Unavailable: the camera holds."""
        standing = await self._standings.standing(self._camera, self._watching)
        self.pause = standing.pause
        if standing.known_as is not None:
            raise Unavailable(
                self._what,
                f"the files of {self._folder} are recorded as those of camera {standing.known_as}, and {self._camera} is new",
                f"If it is the same camera, stop edged and run `edged cameras rename {standing.known_as} {self._camera}`: nothing is "
                f"judged again. Else `edged cameras resume {self._camera}` judges all that lies there.",
            )
        if len(mount) < len(standing.mount):
            raise Unavailable(
                self._what,
                f"nothing is mounted at {standing.mount}, where the share of {self._folder} was",
                "Mount it; edged goes on by itself. If the files lie on this machine's own disk from now on, "
                f"run `edged cameras resume {self._camera}`.",
            )
        if standing.mount != mount:
            await self._standings.let_in(self._camera, self._folder, mount)

    async def set_pause(self, by: str) -> Pause:
        self.pause = await self._standings.pause(self._camera, by)
        return self.pause

    async def lift(self, mount: str) -> None:
        """Ends a pause, and lets the camera in to a folder that is known under another name, or whose share is gone."""
        await self._standings.resume(self._camera)
        await self._standings.let_in(self._camera, self._folder, mount)
        self.pause = None

    @property
    def why_closed(self) -> str:
        """One sentence while it is paused, else ""."""
        return f"paused by {self.pause.by} since {utc_text(self.pause.since)}" if self.pause else ""

    @property
    def hint(self) -> str:
        return f"Images wait in the folder; `edged cameras resume {self._camera}` lets them go on."


def folder_text(camera: Camera) -> str:
    """A folder as the ledger names it."""
    return os.path.abspath(camera.folder)  # noqa: PTH100 - links stay
