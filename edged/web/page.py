"""The status page at `/`: one traffic light, one sentence of cause, one next step; then what stands behind it.

Works without JavaScript: the browser asks again every five seconds. `overview` is pure; the template only places what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from edged.errors import Unavailable
from edged.nouns import HealthItem, HealthStatus
from edged.web.answers import Refused
from edged.web.routes import Route
from edged.web.views import CameraFacts, GpuView, OutboxFacts, ResultRow, StationView, StatusView, WritingFile
from edged.web.wording import age, clock, facts_text, size

REFRESH_S = 5
RESULTS = 20
OTHERS = 3
"""How many further causes stand under the first one; the rest is told by the tiles."""
LIGHT_WORDS = {
    HealthStatus.OK: "Running",
    HealthStatus.DEGRADED: "Attention",
    HealthStatus.DOWN: "Fault",
    HealthStatus.UNKNOWN: "Starting",
}
TILE_WORDS = {
    HealthStatus.OK: "Works",
    HealthStatus.UNKNOWN: "Not known",
    HealthStatus.DEGRADED: "See above",
    HealthStatus.DOWN: "See above",
}
TILES = {"triton": "Triton", "broker": "MQTT", "ledger": "Ledger", "disk": "Disk", "clock": "Clock"}
"""Dependencies with a tile of their own at all times; others get one while they are not well."""
_KINDS = {"text/css": ".css", "image/svg+xml": ".svg"}


class Page:
    """Handlers over one view."""

    def __init__(self, view: StationView) -> None:
        self._view = view
        environment = Environment(loader=PackageLoader("edged.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self._template = environment.get_template("overview.html")
        self._static = _static_files()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/", "page", "The technician's page.", self.overview),
            Route("GET", "/static/{name}", "static", "Style and icons of the page.", self.static, problems=(404,)),
        )

    async def overview(self, _request: web.Request) -> web.Response:
        view = self._view
        rows: list[ResultRow] = []
        missing = ""
        try:
            rows, _ = await view.results(camera=None, verdict=None, lot=None, wafer=None, after=None, limit=RESULTS)
        except Unavailable as away:  # the light must be seen most of all when the ledger is away
            missing = f"The last results cannot be shown: {away.cause}."
        facts = overview(view.status(), view.health(), view.overall(), view.gpu(), rows, datetime.now(UTC))
        text = self._template.render(**facts, missing=missing, refresh_s=REFRESH_S)
        return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def static(self, request: web.Request) -> web.Response:
        found = self._static.get(request.match_info["name"])
        if found is None:
            raise Refused(404, "There is nothing under this address.")
        content_type, body = found
        return web.Response(body=body, content_type=content_type, headers={"Cache-Control": "max-age=3600"})


def _static_files() -> dict[str, tuple[str, bytes]]:
    """Read once: a request's name is looked up, never joined to a path."""
    folder = resources.files("edged.web") / "static"
    return {
        file.name: (kind, file.read_bytes()) for file in folder.iterdir() for kind, suffix in _KINDS.items() if file.name.endswith(suffix)
    }


def overview(
    status: StatusView, items: Sequence[HealthItem], overall: HealthItem, gpu: GpuView, rows: Sequence[ResultRow], now: datetime
) -> dict[str, Any]:
    """Everything the template shows, as display text."""
    by_name = {item.name: item for item in items}
    others = [by_name[name] for name in overall.facts["others"] if name in by_name]
    station = status["station"]
    told = {overall.facts["item"], *(item.name for item in others[:OTHERS])}
    return {
        "station": station,
        "asset_version": station["version"],
        "now": clock(now, now),
        "zone": now.astimezone().tzname(),
        "up": age((now - station["started"]).total_seconds()),
        "light": _light(overall, others, now),
        "tiles": [_backlog(status["outbox"], by_name.get("broker")), *_tiles(items, told, now), _gpu_tile(gpu, by_name.get("gpu"))],
        "cameras": [_camera(camera, by_name.get(f"folder:{camera['name']}"), now) for camera in status["cameras"]],
        "results": [_result(row, now) for row in rows],
        "verdicts": status["verdicts"],
        "latency": status["latency"].get("total"),
    }


def _light(overall: HealthItem, others: Sequence[HealthItem], now: datetime) -> dict[str, Any]:
    item = overall.facts["item"]
    return {
        "status": overall.status.value,
        "word": LIGHT_WORDS[overall.status],
        "cause": overall.cause,
        "hint": overall.hint,
        "item": _title(item) if item else "",
        "since": _since(overall, now),
        "ready": overall.facts["ready"],
        "more": max(len(others) - OTHERS, 0),
        "others": [
            {"title": _title(other.name), "cause": other.cause or other.status.value, "hint": other.hint} for other in others[:OTHERS]
        ],
    }


def _title(name: str) -> str:
    kind, _, rest = name.partition(":")
    return f"{TILES.get(kind, kind.capitalize() if kind != 'gpu' else 'GPU')} {rest}".strip()


def _since(item: HealthItem, now: datetime) -> str:
    return f"since {clock(item.since, now)} ({age((now - item.since).total_seconds())})" if item.since else ""


def _tiles(items: Sequence[HealthItem], told: Collection[str], now: datetime) -> list[dict[str, str]]:
    """A cause that stands in big type already is not said twice."""
    shown = [item for item in items if item.name in TILES]
    shown += [item for item in items if _unwell(item) and item.name.partition(":")[0] not in {*TILES, "folder", "gpu"}]
    return [
        {
            "title": _title(item.name),
            "status": item.status.value,
            "text": (item.name not in told and (item.cause or facts_text(item.facts))) or TILE_WORDS[item.status],
            "note": _since(item, now) if _unwell(item) else "",
        }
        for item in shown
    ]


def _unwell(item: HealthItem) -> bool:
    return item.status in (HealthStatus.DOWN, HealthStatus.DEGRADED)


def _backlog(outbox: OutboxFacts, broker: HealthItem | None) -> dict[str, str]:
    waiting, parked, oldest_s = outbox["undelivered"], outbox["parked"], outbox["oldest_s"]
    drains_s = outbox.get("drains_in_s")
    text = f"{waiting:,} waiting".replace(",", "\u202f") if waiting else "Nothing waits"
    notes = [f"oldest {age(oldest_s)}" if oldest_s is not None and waiting else "", f"drains in {age(drains_s)}" if drains_s else ""]
    notes += [f"{parked} parked" if parked else ""]
    late = parked or (waiting and broker is not None and broker.status is not HealthStatus.OK) or (oldest_s or 0) > 60
    return {"title": "Backlog", "status": "degraded" if late else "ok", "text": text, "note": " · ".join(note for note in notes if note)}


def _gpu_tile(gpu: GpuView, item: HealthItem | None) -> dict[str, str]:
    status = item.status.value if item else "unknown"
    if gpu["reason"] is not None or not gpu["gpus"]:
        return {"title": "GPU", "status": status, "text": gpu["reason"] or "no GPU", "note": ""}
    lines = [_gpu_text(facts) for facts in gpu["gpus"]]
    return {"title": "GPU", "status": status, "text": lines[0], "note": " · ".join(facts["name"] for facts in gpu["gpus"])}


def _gpu_text(facts: Mapping[str, Any]) -> str:
    parts = []
    if facts["utilization_ratio"] is not None:
        parts.append(f"{facts['utilization_ratio'] * 100:.0f}\u202f%")
    if facts["memory_used_bytes"] is not None:
        parts.append(f"{size(facts['memory_used_bytes'])} of {size(facts['memory_total_bytes'])}")
    if facts["temperature_celsius"] is not None:
        parts.append(f"{facts['temperature_celsius']:.0f}\u202f°C")
    if facts["power_watts"] is not None:
        parts.append(f"{facts['power_watts']:.0f}\u202fW")
    return " · ".join(parts) or str(facts["name"])


def _camera(camera: CameraFacts, item: HealthItem | None, now: datetime) -> dict[str, Any]:
    notes = []
    if item is not None and _unwell(item):
        notes.append(item.cause)
    if held := camera.get("held"):
        notes.append(f"Held: {held}")
    if stalled := camera.get("stalled_since"):
        notes.append(f"No new image since {clock(stalled, now)}.")
    notes += [_writing(file, now) for file in camera["writing"][:3]]
    status = item.status.value if item is not None else "unknown"
    if status == "ok" and (camera.get("held") or camera.get("stalled_since")):
        status = "degraded"
    seen = camera["last_seen"]
    return {
        "name": camera["name"],
        "status": status,
        "recipe": camera["recipe"],
        "mode": camera["mode"],
        "last_name": camera["last_name"] or "no image yet",
        "last_age": f"{age((now - seen).total_seconds())} ago" if seen else "",
        "waiting": camera["waiting"],
        "in_flight": camera["in_flight"],
        "notes": notes,
    }


def _writing(file: WritingFile, now: datetime) -> str:
    since = f"since {clock(file['since'], now)} ({age((now - file['since']).total_seconds())})"
    if file["why"]:
        return f"{file['name']} waits {since}: {file['why']}."
    return f"{file['name']} is still being written {since}."


def _result(row: ResultRow, now: datetime) -> dict[str, Any]:
    decided = row["decided"]
    moment = datetime.fromisoformat(decided) if isinstance(decided, str) else decided
    lot, wafer = row["lot_id"] or "", row["wafer_id"] or ""
    material = wafer if lot and wafer.startswith(lot) else " / ".join(part for part in (lot, wafer) if part)
    name = row["name"] + (f" (page {row['page'] + 1})" if row["page"] else "")
    return {**row, "time": clock(moment, now), "material": material, "name": name, "waits": row["delivered"] is False}
