"""/api/v1/cameras/{name}/pause and /resume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from edged.web.acting import change
from edged.web.answers import Refused, as_json
from edged.web.auth import Role
from edged.web.fence import CALLER
from edged.web.routes import Route
from edged.web.views import CameraFacts, StationView


class CameraActions:
    """Handlers over one view; both answer with the camera as it is afterwards."""

    def __init__(self, view: StationView) -> None:
        self._view = view
        self._log = structlog.get_logger("edged.web")

    def routes(self) -> tuple[Route, ...]:
        camera, problems = "/api/v1/cameras/{name}", (404, 503)
        resume = "Let a paused or held camera go on."
        return (
            Route("POST", f"{camera}/pause", "pause_camera", "Judge nothing of a camera.", self.pause, Role.OPERATOR, problems=problems),
            Route("POST", f"{camera}/resume", "resume_camera", resume, self.resume, Role.OPERATOR, problems=problems),
        )

    async def pause(self, request: web.Request) -> web.Response:
        return await self._act(request, "pause", lambda name: self._view.pause_camera(name, request[CALLER].name))

    async def resume(self, request: web.Request) -> web.Response:
        return await self._act(request, "resume", self._view.resume_camera)

    async def _act(self, request: web.Request, verb: str, act: Callable[[str], Awaitable[CameraFacts]]) -> web.Response:
        name, caller = request.match_info["name"], request[CALLER]
        try:
            before = self._view.camera_paused(name)
        except LookupError:
            raise Refused(404, "There is no camera of this name.", "GET /api/v1/cameras lists the cameras.") from None
        facts = await act(name)
        self._log.info(f"camera.{verb}", camera=name, by=caller.name, role=caller.role.name.lower())
        after = self._view.camera_paused(name)
        await self._view.actions.audit(change(request, f"cameras.{verb}", name, {"paused": before or None}, {"paused": after or None}))
        return as_json(facts)
