"""A station for intake's tests: a hand-written ledger's memory and board; the folders and files are real."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edged.channel import Channel, ChannelClosed
from edged.config import Camera, Recipe
from edged.errors import Unavailable
from edged.intake import Intake, Quarantine
from edged.nouns import HealthStatus, Landing, Pause, Recorded, Recording, Standing, VerdictKind
from edged.shelf import Limits


class Memory:
    """The ledger as intake sees it: what is recorded, what is pending, what was told."""

    def __init__(self) -> None:
        self.recorded: dict[tuple[str, bytes], tuple[int, int]] = {}
        self.started: set[str] = set()
        self.baselined: list[bytes] = []
        self.baselining: dict[str, int] = {}
        self.vanishings: list[bytes] = []
        self.pending: dict[str, list[tuple[bytes, int, int, str, str, str, str]]] = {}
        self.disposals: list[tuple[bytes, str, str | None]] = []
        self.known_as: dict[str, str] = {}
        self.mounts: dict[str, str] = {}
        self.pauses: dict[str, Pause] = {}
        self.awaited: dict[bytes, str] = {}
        self.away = False
        self.asked = 0

    def _here(self) -> None:
        if self.away:
            raise Unavailable("ledger", "the disk is full")

    async def known(self, camera: str, seen: Sequence[tuple[bytes, int, int]]) -> set[int]:
        self._here()
        self.asked += len(seen)
        return {index for index, (path, size, mtime) in enumerate(seen) if self.recorded.get((camera, path)) == (size, mtime)}

    async def standing(self, camera: str, watching: Mapping[str, str]) -> Standing:
        self._here()
        return Standing(self.known_as.get(camera), self.mounts.get(camera, ""), self.pauses.get(camera))

    async def let_in(self, camera: str, folder: str, mount: str) -> None:
        self._here()
        self.known_as.pop(camera, None)
        self.mounts[camera] = mount

    async def pause(self, camera: str, by: str) -> Pause:
        self._here()
        return self.pauses.setdefault(camera, Pause(by, datetime.now(UTC)))

    async def resume(self, camera: str) -> None:
        self._here()
        self.pauses.pop(camera, None)

    async def first_start(self, camera: str, folder: str, baseline_ns: int | None = None) -> bool:
        self._here()
        first = camera not in self.started
        self.started.add(camera)
        if first and baseline_ns is not None:
            self.baselining[camera] = baseline_ns
        return first

    async def baseline_since(self, camera: str, folder: str) -> int | None:
        self._here()
        return self.baselining.get(camera)

    async def baseline_ended(self, camera: str) -> None:
        self._here()
        del self.baselining[camera]

    async def baseline(self, camera: str, seen: Sequence[tuple[bytes, int, int]]) -> None:
        self._here()
        for path, size, mtime in seen:
            self.recorded[camera, path] = (size, mtime)
            self.baselined.append(path)

    async def awaiting(self, camera: str, stems: Sequence[bytes]) -> list[tuple[bytes, str]]:
        self._here()
        return [(path, id_) for path, id_ in self.awaited.items() if path.rpartition(b".")[0] in stems]

    async def vanished(self, camera: str, path: bytes) -> None:
        self._here()
        self.vanishings.append(path)

    async def pending_disposal(self, camera: str) -> list[tuple[bytes, int, int, str, str, str, str]]:
        self._here()
        return list(self.pending.get(camera, []))

    async def disposed(self, camera: str, path: bytes, result_id: str, outcome: str, new_path: str | None) -> None:
        self._here()
        self.pending[camera] = [row for row in self.pending.get(camera, []) if row[4] != result_id]
        self.disposals.append((path, str(outcome), new_path))


class Health:
    """The newest report of each item."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[HealthStatus, str, str]] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.items[name] = (status, cause, hint)
        self.facts[name] = facts


class Station:
    """`received`: what the pipeline was sent. Use `landing()` to receive and `judge()` to record and report it done."""

    def __init__(self, state: Path, cameras: Sequence[Camera], recipes: Mapping[str, Recipe] | None = None, **options: Any) -> None:
        self._cameras = len(cameras)
        self.memory: Memory = options.pop("memory", None) or Memory()
        self.health = Health()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.held: set[tuple[str, str]] = set()
        self.channel: Channel[Landing] = Channel(options.pop("capacity", 64))
        self.received: list[Landing] = []
        self.quarantine = state / "quarantine"
        self.intake = Intake(
            cameras=cameras,
            recipes=recipes or {"r": Recipe(name="r", models=("m",))},
            landings=self.channel,
            recall=self.memory,
            standings=self.memory,
            held=lambda camera, recipe: (camera, recipe) in self.held,
            quarantine=Quarantine(self.quarantine, Limits(bytes=2 * 1024**3)),
            board=self.health,
            announce=self._announce,
            **options,
        )

    async def _announce(self, kind: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(data)))

    async def landing(self, timeout_s: float = 5.0) -> Landing:
        landing = await asyncio.wait_for(self.channel.receive(), timeout_s)
        self.received.append(landing)
        return landing

    async def nothing(self, for_s: float) -> None:
        """Asserts that no landing comes for so long."""
        try:
            landing = await asyncio.wait_for(self.channel.receive(), for_s)
        except (TimeoutError, ChannelClosed):
            return
        raise AssertionError(f"{landing.name} landed")

    async def judge(self, landing: Landing, kind: VerdictKind = VerdictKind.PASS, outcome: Recording = Recording.RECORDED) -> Recorded:
        """As the ledger and the pipeline would: record, then tell intake."""
        file = Path(landing.folder).joinpath(landing.name) if landing.name.isascii() else None
        digest = hashlib.sha256(file.read_bytes() if file and file.is_file() else b"").hexdigest()
        key = hashlib.sha256(repr((landing.camera, landing.path, landing.size, landing.mtime_ns, digest)).encode()).hexdigest()
        self.memory.recorded[landing.camera, landing.path] = (landing.size, landing.mtime_ns)
        if outcome is Recording.RECORDED:
            row = (landing.path, landing.size, landing.mtime_ns, digest, key[:32], str(kind), landing.rejected or "")
            self.memory.pending.setdefault(landing.camera, []).append(row)
        recorded = Recorded(outcome, (key[:32],), (kind,))
        await self.intake.done(landing, recorded)
        return recorded

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Station]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.intake.run(stop))
            try:
                await self.until(lambda: len(self.health.items) == self._cameras, 60)
                yield self
            finally:
                stop.set()
                await asyncio.wait_for(asyncio.shield(task), 10)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)


def camera(folder: Path, **options: Any) -> Camera:
    return Camera(**{"name": "cam", "folder": folder, "recipe": "r", "poll_s": 0.1, "reconcile_s": 300.0, **options})


def picture(seed: int = 1, side: int = 64, extension: str = ".png") -> bytes:
    image = np.random.default_rng(seed).integers(1, 255, (side, side), np.uint8)
    ok, data = cv2.imencode(extension, image)
    assert ok
    return data.tobytes()


def drop(folder: Path, name: str, data: bytes) -> Path:
    """As a tool does that writes under a temporary name and renames into place."""
    temporary = folder / f".{name}.tmp"
    temporary.write_bytes(data)
    temporary.rename(folder / name)
    return folder / name
