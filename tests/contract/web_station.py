"""A hand-written station behind a real door: it answers from plain attributes that a test may change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from edged.config import Http
from edged.nouns import Change, HealthStatus
from edged.vitals.health import HealthBoard
from edged.vitals.metrics import Metrics
from edged.web import Door

START = datetime.now(UTC)


def a_row(number: int, verdict: str = "PASS", **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"5f6c1e77-7b1e-8c44-9d55-3f0a2b6c{number:04x}",
        "decided": START - timedelta(seconds=7 * number),
        "camera": f"cam{number % 2 + 1}",
        "name": f"L2411A_W07_{number:06d}.png",
        "page": 0,
        "verdict": verdict,
        "reason": {"PASS": "no-defect", "FAIL": "class:particle>=0.80", "REVIEW": "quality:sharpness", "ERROR": "truncated"}[verdict],
        "lot_id": "L2411A",
        "wafer_id": "L2411A-07",
        "delivered": True,
    }
    return {**row, **changes}


class FakeActions:
    """Implements `Actions`: remembers the audit."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.raises: BaseException | None = None

    async def audit(self, change: Change) -> None:
        self.changes.append(change)

    async def rejudge(self, id_: str, recipe: str | None, change: Any) -> dict[str, Any]:
        if self.raises is not None:
            raise self.raises
        self.changes.append(change(id_, {"judgement": 0}, {"judgement": 1, "recipe": recipe}))
        return {"id": id_[:-1] + "9", "judgement": 1, "supersedes": id_, "camera": "cam1", "name": "a.png"}

    async def release(self, id_: str, change: Any) -> dict[str, Any]:
        return await self.rejudge(id_, None, change)

    async def republish(self, id_: str, change: Any) -> bool:
        self.changes.append(change(id_, None, {"state": "due"}))
        return id_.endswith("0000")

    async def retry_parked(self, change: Any) -> int:
        self.changes.append(change("outbox", {"parked": 2}, {"due": 2}))
        return 2

    async def outbox(self, after: str | None, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
        return {"rows": {"due": 1, "parked": 1}, "undelivered": 1, "oldest_s": 3.5}, [{"reason": "quota"}], None

    async def quarantined(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        return [{"id": "x", "kept": True}], None

    async def audited(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        if after not in (None, "2"):
            raise ValueError(after)
        return [asdict(change) for change in reversed(self.changes)][:limit], None


class FakeStation:
    """Implements `StationView`; the health board and the metrics are the real ones."""

    def __init__(self) -> None:
        self.board = HealthBoard()
        for name in ("triton", "broker", "ledger", "folder:cam1", "folder:cam2"):
            self.board.report(name, HealthStatus.OK)
        self.board.report("disk", HealthStatus.OK, free_bytes=412_000_000_000)
        self.metrics_ = Metrics("1.2.3")
        self.rows: list[dict[str, Any]] = [a_row(number) for number in range(20)]
        self.gpu_: dict[str, Any] = {"gpus": [], "reason": "no GPU: the NVIDIA kernel driver is not loaded", "driver": None}
        self.outbox: dict[str, Any] = {"undelivered": 0, "parked": 0, "oldest_s": None}
        self.writing: list[dict[str, Any]] = []
        self.beat_s = 0.2
        self.actions = FakeActions()
        self.asked: list[tuple[str, Any]] = []
        self.paused: dict[str, str] = {}
        self.raises: BaseException | None = None

    def status(self) -> dict[str, Any]:
        cameras = [
            {
                "name": f"cam{number}",
                "folder": f"/drop/cam{number}",
                "recipe": ("wafer-map", "die-adi")[number - 1],
                "mode": ("inotify", "poll")[number - 1],
                "waiting": 3 * number,
                "in_flight": number,
                "writing": self.writing if number == 1 else [],
                "ignored": 0,
                "overflows": 0,
                "last_name": self.rows[0]["name"] if self.rows else None,
                "last_seen": datetime.now(UTC) - timedelta(seconds=9 * number),
            }
            for number in (1, 2)
        ]
        source = "/acme/fab2/litho/INSP07/edged/a"
        station = {"source": source, "tool": "INSP07", "instance": "a", "hostname": "insp07", "version": "1.2.3", "started": START}
        latency = {"total": {"count": 20, "p50_ms": 120.0, "p95_ms": 310.5, "p99_ms": 402.0, "max_ms": 410.0}}
        verdicts = {"PASS": 18211, "FAIL": 240, "REVIEW": 31, "ERROR": 2}
        return {
            "station": station,
            "cameras": cameras,
            "queues": {"settled": 2},
            "outbox": self.outbox,
            "verdicts": verdicts,
            "latency": latency,
        }

    def health(self):
        return self.board.items()

    def overall(self):
        return self.board.overall()

    def gpu(self):
        return self.gpu_

    def models(self):
        return [{"name": "die_defect", "version": "3", "state": "ready"}]

    def metrics(self, accept):
        return self.metrics_.exposition(accept)

    def config_redacted(self):
        return {"mqtt": {"host": "127.0.0.1", "password_file": "***"}}

    def version(self):
        return {"edged": "1.2.3", "python": "3.11"}

    def beat(self):
        return self.beat_s

    def _check(self) -> None:
        if self.raises is not None:
            raise self.raises

    async def results(self, **filters):
        self._check()
        self.asked.append(("results", filters))
        if filters["after"] not in (None, "c2"):
            raise ValueError(filters["after"])
        return self.rows[: filters["limit"]], "c2" if filters["after"] is None else None

    async def result(self, id_):
        self._check()
        return next(({"id": row["id"], "data": {"verdict": row["verdict"]}} for row in self.rows if row["id"] == id_), None)

    async def trace(self, name):
        self._check()
        self.asked.append(("trace", name))
        return {"name": name, "steps": []}

    async def trace_lot(self, lot):
        self.asked.append(("lot", lot))
        return {"lot": lot, "entries": []}

    async def load_model(self, name):
        self._check()
        if name != "die_defect":
            raise LookupError(name)
        self.asked.append(("load", name))
        return {"name": name, "state": "ready"}

    async def unload_model(self, name):
        self._check()
        self.asked.append(("unload", name))
        return {"name": name, "state": "unloaded"}

    def camera_paused(self, name):
        if name not in ("cam1", "cam2"):
            raise LookupError(name)
        return self.paused.get(name, "")

    async def pause_camera(self, name, by):
        self._check()
        self.paused[name] = f"paused by {by}"
        return {"name": name, "held": self.paused[name]}

    async def resume_camera(self, name):
        self._check()
        self.paused.pop(name, None)
        return {"name": name, "held": None}


@asynccontextmanager
async def opened(station: FakeStation, **config: Any) -> AsyncIterator[str]:
    """A door on a free port; yields its address."""
    it = Door(Http(**{"bind": "127.0.0.1:0", **config}), station, station.board)
    stop = asyncio.Event()
    running = asyncio.create_task(it.run(stop))
    try:
        await asyncio.wait_for(it.opened.wait(), 5)
        assert it.url is not None
        yield it.url
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask(url: str, method: str = "GET", **more: Any) -> tuple[int, Any, dict[str, str]]:
    """Status, body (parsed where it is JSON) and headers."""
    async with aiohttp.ClientSession() as session, session.request(method, url, **more) as answer:
        body = await answer.text()
        parsed = json.loads(body) if "json" in answer.headers.get("Content-Type", "") else body
        return answer.status, parsed, dict(answer.headers)


def assert_problem(body: Any, status: int) -> None:
    assert body["status"] == status
    assert body["type"].startswith("urn:edged:problem:")
    assert body["title"]
    assert body["detail"].endswith(".")
    assert "Traceback" not in json.dumps(body)


async def say(url: str, sent: bytes, *, until_closed_s: float = 5) -> bytes:
    """Sends raw bytes and returns everything until the station closes the connection."""
    host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), until_closed_s)
    finally:
        writer.close()
