"""What the web room asks of the daemon: one Protocol, and the shapes of what it answers.

Everything synchronous must answer from memory at once; only the readers of the ledger and the model actions may wait.
Times are aware datetimes, paths and names are display text; the web room turns them into JSON and HTML.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NotRequired, Protocol, TypedDict

from edged.nouns import HealthItem
from edged.web.acting import Actions


class StationFacts(TypedDict):
    source: str  # the CloudEvents source, /acme/fab2/litho/INSP07/edged/a
    tool: str
    instance: str
    hostname: str
    version: str
    started: datetime


class WritingFile(TypedDict):
    """A file that is still being written, or waits: `why` says what for, empty while it is written."""

    name: str
    since: datetime
    why: str


class CameraFacts(TypedDict):
    name: str
    folder: str
    recipe: str
    mode: str  # inotify | poll, as in use
    waiting: int
    in_flight: int
    writing: list[WritingFile]
    ignored: int
    overflows: int
    last_name: str | None
    last_seen: datetime | None
    stalled_since: NotRequired[datetime | None]
    held: NotRequired[str | None]  # why its images wait, one sentence


class OutboxFacts(TypedDict):
    undelivered: int
    parked: int
    oldest_s: float | None
    drains_in_s: NotRequired[float | None]


class StatusView(TypedDict):
    station: StationFacts
    cameras: list[CameraFacts]
    queues: dict[str, int]  # channel -> items that wait
    outbox: OutboxFacts
    verdicts: dict[str, int]  # PASS, FAIL, REVIEW, ERROR since the start
    latency: dict[str, dict[str, float]]  # stage -> count, p50_ms, p95_ms, p99_ms, max_ms


class ResultRow(TypedDict):
    """One line of a list of results; `result(id)` gives the whole message."""

    id: str
    decided: datetime | str
    camera: str
    name: str
    page: int
    verdict: str
    reason: str
    lot_id: str | None
    wafer_id: str | None
    delivered: bool | None


class GpuView(TypedDict):
    """Either `gpus`, with None for figures a GPU does not give, or `reason` ("no GPU: ...")."""

    gpus: list[dict[str, Any]]
    reason: str | None
    driver: str | None


class StationView(Protocol):
    """Implemented by the daemon over its rooms' snapshots."""

    @property
    def actions(self) -> Actions: ...

    def status(self) -> StatusView: ...

    def health(self) -> tuple[HealthItem, ...]: ...

    def overall(self) -> HealthItem:
        """The station as one item; its facts hold `ready`, `item` and `others`."""
        ...

    def gpu(self) -> GpuView: ...

    def models(self) -> list[dict[str, Any]]: ...

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The scrape's body and its Content-Type."""
        ...

    def config_redacted(self) -> dict[str, Any]: ...

    def version(self) -> dict[str, Any]: ...

    def beat(self) -> float:
        """Seconds since the pipeline last showed that it advances (an idle one does so as well)."""
        ...

    async def results(
        self, *, camera: str | None, verdict: str | None, lot: str | None, wafer: str | None, after: str | None, limit: int
    ) -> tuple[list[ResultRow], str | None]:
        """Newest first, and the cursor of the next page. `ValueError`: `after` is no cursor of ours."""
        ...

    async def result(self, id_: str) -> dict[str, Any] | None: ...

    async def trace(self, name: str) -> dict[str, Any]: ...

    async def trace_lot(self, lot: str) -> dict[str, Any]: ...

    async def load_model(self, name: str) -> dict[str, Any]:
        """`LookupError`: no such model; `Unavailable`: Triton is away; `ModelMismatch`: it loads, but is not what the recipe names."""
        ...

    async def unload_model(self, name: str) -> dict[str, Any]: ...

    def camera_paused(self, name: str) -> str:
        """One sentence while it is paused, else "". `LookupError`: no such camera."""
        ...

    async def pause_camera(self, name: str, by: str) -> CameraFacts:
        """`Unavailable`: the ledger is away, and nothing has changed."""
        ...

    async def resume_camera(self, name: str) -> CameraFacts: ...
