"""/livez, /readyz, /healthz, /metrics: for supervisors, load balancers and Prometheus."""

from __future__ import annotations

from aiohttp import hdrs, web

from edged.nouns import HealthItem, HealthStatus, utc_text
from edged.web.answers import as_json, as_text
from edged.web.routes import Route
from edged.web.views import StationView

BEAT_LIMIT_S = 30.0


class Probes:
    """Handlers over one view."""

    def __init__(self, view: StationView) -> None:
        self._view = view

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/livez", "livez", "Whether the process and its pipeline advance.", self.livez, role=None, problems=(503,)),
            Route("GET", "/readyz", "readyz", "Whether images can be judged and recorded.", self.readyz, problems=(503,)),
            Route("GET", "/healthz", "healthz", "The same as /readyz.", self.readyz, problems=(503,)),
            Route("GET", "/metrics", "metrics", "Prometheus metrics, or OpenMetrics by Accept.", self.metrics),
        )

    async def livez(self, _request: web.Request) -> web.Response:
        """Names nothing: it is open to everybody."""
        beat_s = self._view.beat()
        if beat_s <= BEAT_LIMIT_S:
            return as_text("ok\n")
        return as_text(f"stalled: the pipeline has not advanced for {beat_s:.0f} s\n", 503)

    async def readyz(self, request: web.Request) -> web.Response:
        overall, items = self._view.overall(), self._view.health()
        ready = bool(overall.facts["ready"])
        status = 200 if ready else 503
        if "application/json" in _accept(request):
            said = {"ready": ready, "status": overall.status, "cause": overall.cause, "hint": overall.hint, "checks": items}
            return as_json(said, status)
        first = f"{'ready' if ready else 'not ready'}: {overall.status.value}: {overall.cause}"
        unwell = [item for item in items if item.status in (HealthStatus.DOWN, HealthStatus.DEGRADED)]
        shown = items if "verbose" in request.query else unwell
        return as_text("\n".join([first, *map(_line, shown), ""]), status)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._view.metrics(_accept(request))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})


def _accept(request: web.Request) -> str:
    return ",".join(request.headers.getall(hdrs.ACCEPT, []))


def _line(item: HealthItem) -> str:
    mark = {HealthStatus.OK: "+", HealthStatus.UNKNOWN: "?"}.get(item.status, "-")
    since = f" since {utc_text(item.since)}" if item.since else ""
    said = " ".join(f"{item.cause} {item.hint}".split())  # one line, whatever a cause quotes
    return f"[{mark}] {item.name} {item.status.value}{since}" + (f": {said}" if said else "")
