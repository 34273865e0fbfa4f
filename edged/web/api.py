"""/api/v1: what the station knows, as JSON, and the model actions."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from aiohttp import web
from pydantic import BeforeValidator, Field

from edged.nouns import VerdictKind
from edged.web.acting import CURSOR, UNKNOWN, change
from edged.web.answers import Refused, as_json
from edged.web.auth import Role
from edged.web.fence import CALLER
from edged.web.queries import RESULT_ID, Nothing, Text, asked
from edged.web.routes import Route
from edged.web.views import StationView

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class ResultsQuery(Nothing):
    """Filters of the list of results; `after` is the `next` of the page before."""

    camera: Text | None = None
    verdict: Annotated[VerdictKind, BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text)] | None = None
    lot: Text | None = None
    wafer: Text | None = None
    after: Text | None = None
    limit: int = Field(50, ge=1, le=500)


class TraceQuery(Nothing):
    """`name`: a file's name, with or without its folder; or `lot`."""

    name: str | None = Field(None, min_length=1, max_length=4096)
    lot: Text | None = None


class Api:
    """Handlers over one view."""

    def __init__(self, view: StationView) -> None:
        self._view = view
        self._log = structlog.get_logger("edged.web")

    def routes(self) -> tuple[Route, ...]:
        base = "/api/v1"
        model = f"{base}/models/{{name}}"
        return (
            Route("GET", f"{base}/status", "status", "The station at a glance.", self.status, query=Nothing),
            Route("GET", f"{base}/cameras", "cameras", "The cameras and their folders.", self.cameras, query=Nothing),
            Route("GET", f"{base}/results", "results", "Results, newest first.", self.results, query=ResultsQuery, problems=(400,)),
            Route("GET", f"{base}/results/{{id}}", "result", "One result message.", self.result, query=Nothing, problems=(404,)),
            Route("GET", f"{base}/trace", "trace", "A file's timeline, or a lot.", self.trace, query=TraceQuery, problems=(400,)),
            Route("GET", f"{base}/models", "models", "The models and their state.", self.models, query=Nothing),
            Route("POST", f"{model}/load", "load_model", "Load a model.", self.load, Role.OPERATOR, problems=(400, 404, 409, 503)),
            Route("POST", f"{model}/unload", "unload_model", "Unload a model.", self.unload, Role.OPERATOR, problems=(400, 404, 503)),
            Route("GET", f"{base}/gpu", "gpu", "GPU figures, or why there are none.", self.gpu, query=Nothing),
            Route("GET", f"{base}/version", "version", "Versions.", self.version, query=Nothing),
            Route("GET", f"{base}/config", "config", "The configuration, without secrets.", self.config, query=Nothing),
        )

    async def status(self, _request: web.Request) -> web.Response:
        view = self._view
        return as_json({**view.status(), "health": {"overall": view.overall(), "items": view.health()}, "gpu": view.gpu()})

    async def cameras(self, _request: web.Request) -> web.Response:
        return as_json({"cameras": self._view.status()["cameras"]})

    async def results(self, request: web.Request) -> web.Response:
        query = asked(ResultsQuery, request)
        verdict = query.verdict.value if query.verdict else None
        try:
            rows, cursor = await self._view.results(
                camera=query.camera, verdict=verdict, lot=query.lot, wafer=query.wafer, after=query.after, limit=query.limit
            )
        except ValueError:
            raise CURSOR from None
        return as_json({"results": rows, "next": cursor})

    async def result(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        found = await self._view.result(id_) if RESULT_ID.fullmatch(id_) else None
        if found is None:
            raise UNKNOWN
        return as_json(found)

    async def trace(self, request: web.Request) -> web.Response:
        query = asked(TraceQuery, request)
        if (query.name is None) == (query.lot is None):
            wrong = [{"parameter": "name", "problem": "Either name or lot must be given."}]
            raise Refused(400, "The query parameters are not right.", "Correct those named under errors.", errors=wrong)
        return as_json(await (self._view.trace(query.name) if query.name is not None else self._view.trace_lot(query.lot or "")))

    async def models(self, _request: web.Request) -> web.Response:
        return as_json({"models": self._view.models()})

    async def load(self, request: web.Request) -> web.Response:
        return await self._model_action(request, "load", self._view.load_model)

    async def unload(self, request: web.Request) -> web.Response:
        return await self._model_action(request, "unload", self._view.unload_model)

    async def _model_action(self, request: web.Request, verb: str, act: Callable[[str], Awaitable[dict[str, Any]]]) -> web.Response:
        name = request.match_info["name"]
        if not MODEL_NAME.fullmatch(name):
            raise Refused(400, "This is no model name.", "A name has small letters, digits, - and _, at most 64.")
        before = self._state_of(name)
        try:
            answer = await act(name)
        except LookupError:
            raise Refused(404, f"There is no model {name} in the repository.", "GET /api/v1/models lists the models.") from None
        self._log.info(f"model.{verb}", model=name, by=request[CALLER].name, role=request[CALLER].role.name.lower())
        await self._view.actions.audit(change(request, f"models.{verb}", name, before, self._state_of(name)))
        return as_json(answer)

    def _state_of(self, name: str) -> dict[str, Any]:
        """Every version's, as it is now."""
        return {str(model["version"]): str(model["state"]) for model in self._view.models() if model["name"] == name}

    async def gpu(self, _request: web.Request) -> web.Response:
        return as_json(self._view.gpu())

    async def version(self, _request: web.Request) -> web.Response:
        return as_json(self._view.version())

    async def config(self, _request: web.Request) -> web.Response:
        return as_json(self._view.config_redacted())
