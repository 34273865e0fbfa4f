"""Intake: watches the folders, proves each file complete, tells who it is, and sees to it after its verdict is committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edged.channel import Channel
from edged.config import Camera, IdentityKind, Recipe
from edged.intake.camera import CameraIntake, utc
from edged.intake.completeness import check
from edged.intake.finding import Found, Sought
from edged.intake.gate import Gate, Standings, folder_text
from edged.intake.identity import Parsed, explain, identify, template_problem
from edged.intake.outgoing import Landings
from edged.intake.quarantine import Quarantine, unreadable
from edged.intake.recall import CameraSnapshot, Recall, Seen, Writing
from edged.intake.reference import is_reference, reference_candidates
from edged.intake.report import snapshot, unwanted, whereabouts
from edged.intake.selection import Selection
from edged.intake.sidecar import read_sidecar
from edged.intake.window import Grade, Structure
from edged.nouns import Board, Identity, Landing, LateSidecar, Recorded

__all__ = [
    "CameraSnapshot",
    "Found",
    "Grade",
    "Intake",
    "Parsed",
    "Quarantine",
    "Recall",
    "Seen",
    "Sought",
    "Structure",
    "Writing",
    "check",
    "explain",
    "identify",
    "identify_file",
    "is_reference",
    "reference_candidates",
    "template_problem",
]

LATE = 64


class Intake:
    """All cameras. `held(camera, recipe)`: must this recipe's images wait? `quarantine`: its folder is made when needed.

    `late` gives the sidecars that came after their image was judged.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        recipes: Mapping[str, Recipe],
        landings: Landings,
        recall: Recall,
        standings: Standings,
        held: Callable[[str, str], bool],
        quarantine: Quarantine,
        board: Board,
        announce: Callable[[str, Mapping[str, Any]], Any],
        *,
        utcnow: Callable[[], datetime] = utc,
        stall_s: float = 5.0,
    ) -> None:
        self._landings = landings
        watching = {camera.name: folder_text(camera) for camera in cameras}
        self._quarantine = quarantine
        self.late: Channel[LateSidecar] = Channel(LATE)
        self._cameras = {
            camera.name: CameraIntake(
                camera,
                Selection(camera, cameras, recipes),
                recipes=recipes,
                landings=landings,
                recall=recall,
                late=self.late,
                gate=Gate(camera, watching, standings),
                held=held,
                quarantine=quarantine,
                board=board,
                announce=announce,
                utcnow=utcnow,
                stall_s=stall_s,
            )
            for camera in cameras
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the channel closes. `put_back` and `done` still work for what was sent before."""
        try:
            async with asyncio.TaskGroup() as group:
                for name, camera in self._cameras.items():
                    group.create_task(camera.run(stop), name=f"intake-{name}")
        finally:
            await self._landings.close()
            await self.late.close()

    def put_back(self, landing: Landing) -> None:
        """It was not judged; it is sent again when its recipe is not held, after a fresh look."""
        self._cameras[landing.camera].put_back(landing)

    async def done(self, landing: Landing, recorded: Recorded) -> None:
        """After the commit. Never raises for a folder or ledger that is away: what is left undone is resumed."""
        await self._cameras[landing.camera].done(landing, recorded)

    async def vanished(self, landing: Landing) -> None:
        """The file was gone when it should have been read: no result, but an event."""
        await self._cameras[landing.camera].vanished(landing)

    async def pause(self, camera: str, by: str) -> None:
        """The camera lists and sends nothing, also after a restart, until `resume`. LookupError: no such camera; Unavailable."""
        await self._cameras[camera].pause(by)

    async def resume(self, camera: str) -> None:
        """Ends a pause, and the hold of a folder that is known under another camera's name. LookupError; Unavailable."""
        await self._cameras[camera].resume()

    def paused(self, camera: str) -> str:
        """One sentence while the camera is paused, else ""."""
        return self._cameras[camera].gate.why_closed

    async def find(self, camera: str, sought: Sought, *, kept_only: bool = False) -> Found | None:
        """Where the content of a judged file lies now, in quarantine only if so asked; None: nowhere. Raises Unavailable."""
        return await self._cameras[camera].judged.find(sought, kept_only=kept_only)

    async def keep_copy(self, landing: Landing, result_id: str) -> None:
        """Into quarantine: an image that was rejected when it was judged again."""
        await self._cameras[landing.camera].judged.keep_copy(landing, result_id)

    async def sidecar_follows(self, camera: str, path: bytes, moved_to: str | None) -> None:
        """One that came late, once it is taken into account: it goes where its image went."""
        await self._cameras[camera].judged.sidecar_follows(path, moved_to)

    async def quarantined(self) -> dict[str, tuple[int, float]]:
        """The copies in quarantine by result id: size, and when each was made (s). Raises Unavailable."""
        try:
            return await asyncio.to_thread(self._quarantine.kept)
        except OSError as error:
            raise unreadable(error) from None

    def snapshot(self) -> tuple[CameraSnapshot, ...]:
        return tuple(snapshot(camera) for camera in self._cameras.values())

    def whereabouts(self, name: str) -> list[dict[str, Any]]:
        """What is known of files of this name that have no result yet: camera, recipe, file, what, state, since."""
        return [answer for camera in self._cameras.values() for answer in whereabouts(camera, name)]

    async def ignored(self, name: str) -> list[dict[str, Any]]:
        """Files of this name (a path below the folder) that lie in a folder now and are none of its camera's images, and why."""
        path, found = name.encode("utf-8", "surrogateescape"), []
        for camera in self._cameras.values():
            reason = camera.folder.selection.explain(path)
            if reason is not None and not path.startswith(b"/") and await camera.folder.lies(path):
                about = {"camera": camera.camera.name, "recipe": camera.camera.recipe, "file": name}
                found.append({**about, "what": "ignored", "state": reason, "since": None})
        return found

    def unwanted(self, name: str) -> dict[str, Any] | None:
        """Why the first camera would not take a file of this name, when none would; None when one would."""
        reasons = [unwanted(camera, name) for camera in self._cameras.values()]
        return reasons[0] if reasons and all(reasons) else None


def identify_file(camera: Camera, path: bytes, file: Path | None = None) -> Identity:
    """Who the image at `path` (below the camera's folder) is; sidecars are read beside `file` when it is given."""
    sidecars: dict[IdentityKind, bytes] = {}
    if file is not None:
        for kind in {source.kind for source in camera.identity}:
            with contextlib.suppress(OSError):  # as in the daemon: a sidecar that cannot be read is none
                data = read_sidecar(file.parent, file.name.encode("utf-8", "surrogateescape"), kind)
                if data is not None:
                    sidecars[kind] = data
    return identify(camera.identity, path, sidecars, camera.die_frame)
