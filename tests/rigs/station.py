"""A whole station for a fault: the daemon, its own Triton, its own broker, an MES, and a tool that remembers what it dropped.

Fixture
- `start_station`: `start_station(cameras=("cam1",), camera="", toml="", ...) -> Station`, running and ready; ended after the test.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rigs.daemon import Daemon
from rigs.mes import Mes
from rigs.mosquitto import Broker, BrokerOptions
from rigs.processes import wait_until
from rigs.tally import KINDS, Image, Recorded, Tally, rows, tally
from rigs.triton import TritonServer, _require_triton

MAPS = sorted((Path(__file__).parents[1] / "data/wafer_maps/images").glob("*.png"))
BASE = "acme/fab2/litho/INSP07/edged/v1"
HEAD = """
[station]
enterprise = "acme"
site = "fab2"
area = "litho"
tool = "INSP07"
[triton]
endpoints = ["{triton}"]
{triton_keys}
[mqtt]
port = {port}
{mqtt_keys}
[[recipe]]
name = "maps"
models = ["wafer_pattern"]
{toml}
"""
CAMERA = """
[[camera]]
name = "{name}"
folder = "{folder}"
poll_s = 0.5
{keys}
"""


def wafer_map(number: int) -> bytes:
    """A good image; every number is another file, though some show the same wafer."""
    content = MAPS[number % len(MAPS)].read_bytes()
    text = b"Comment\0image %d" % number
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return content[:-12] + chunk + content[-12:]


class Station:
    """`daemon`, `triton`, `broker`, `mes`; `folders` by camera; `dropped`: image -> pages, whatever became of it."""

    def __init__(self, home: Path, broker: Broker, triton: TritonServer, daemon: Daemon, folders: Mapping[str, Path]) -> None:
        self.home, self.broker, self.triton, self.daemon, self.folders = home, broker, triton, daemon, folders
        self.dropped: dict[Image, int] = {}
        self.mes: Mes
        self.kinds = KINDS
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._over: float | None = None
        self._since = 0.0
        self._counted: dict[tuple[str, str], int] = {}

    # --- the tool ------------------------------------------------------------------------------------------------------------
    def drop(self, count: int = 1, camera: str | None = None, *, prefix: str = "w") -> list[Path]:
        """Good wafer maps under new names, written aside and renamed, by turns to each camera or all to one; their paths."""
        cameras = [camera] if camera else list(self.folders)
        paths = []
        for _ in range(count):
            number = next(self._numbers)
            paths.append(self.put(cameras[number % len(cameras)], f"{prefix}{number:06d}.png", wafer_map(number)))
        return paths

    def put(self, camera: str, name: str | bytes, content: bytes, *, pages: int = 1) -> Path:
        """One file, as a tool renames it into place; it is expected to get a verdict for each of its pages."""
        raw = os.fsencode(name)
        folder = self.folders[camera]
        aside = folder / f".tool-{hashlib.sha256(raw).hexdigest()[:16]}"
        aside.write_bytes(content)
        self.expect(camera, raw, content, pages=pages)
        return aside.rename(folder / os.fsdecode(name))

    def expect(self, camera: str, name: str | bytes, content: bytes, *, pages: int = 1) -> None:
        """A file that the test writes in its own way."""
        with self._lock:
            self.dropped[camera, os.fsencode(name), hashlib.sha256(content).hexdigest()] = pages

    @contextmanager
    def feeding(self, rate_per_s: float = 20.0, camera: str | None = None) -> Iterator[None]:
        """Images keep arriving while the block runs; a folder that is away is tried again."""
        end = threading.Event()
        failed: list[BaseException] = []

        def feed() -> None:
            due = time.monotonic()
            while not end.is_set():
                try:
                    self.drop(1, camera)
                except OSError:
                    pass  # the tool waits too while its folder is away
                except BaseException as error:  # noqa: BLE001 - told to the test below
                    failed.append(error)
                    return
                due = max(due + 1 / rate_per_s, time.monotonic() - 1)
                end.wait(max(0.0, due - time.monotonic()))

        thread = threading.Thread(target=feed, name="tool", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(30)
            if failed:
                raise failed[0]

    # --- the oracle ----------------------------------------------------------------------------------------------------------
    @property
    def ledger(self) -> Path:
        return self.daemon.state / "ledger.db"

    def rows(self) -> list[Recorded]:
        return rows(self.ledger)

    def tally(self) -> Tally:
        with self._lock:
            dropped = dict(self.dropped)
        return tally(dropped, [row for row in self.rows() if row.at > self._since], list(self.mes.arrivals), self._counted, self.kinds)

    def begin_anew(self) -> None:
        """Once all is settled: what was dropped so far is counted no more, so that a long run stays small."""
        assert self.tally().well, "only a settled station can begin anew"
        with self._lock:
            self.dropped.clear()
        self._since = max((row.at for row in self.rows()), default=0.0)
        for key, number in self.mes.forget().items():
            self._counted[key] = max(number, self._counted.get(key, 0))

    def over(self) -> None:
        """The fault ends now: recovery is counted from here."""
        self._over = time.time()

    def settle(self, timeout_s: float = 60) -> float:
        """Waits until every drop has its verdict and the MES has them all; returns how long after `over` (or this call) the first
        new verdict was there (s)."""
        began = self._over if self._over is not None else time.time()
        deadline = time.monotonic() + timeout_s
        while not (now := self.tally()).well:
            if time.monotonic() > deadline:
                raise AssertionError(f"not settled after {timeout_s:g} s: {now}; health: {self.complaints()}\n{self.daemon.said()[-3000:]}")
            time.sleep(0.2)
        new = [row.at for row in self.rows() if row.at > began]
        self._over = None
        return round(min(new) - began if new else time.time() - began, 2)

    # --- health --------------------------------------------------------------------------------------------------------------
    def health(self) -> dict[str, dict[str, Any]]:
        """Health item by name; {} while nobody answers."""
        said = self.daemon.get("/readyz", 503)
        return {} if said is None else {item["name"]: item for item in said["checks"]}

    def complaints(self) -> dict[str, str]:
        return {name: f"{item['status']}: {item.get('cause')}" for name, item in self.health().items() if item["status"] != "ok"}

    def wait_health(self, name: str, status: str, timeout_s: float = 20) -> dict[str, Any]:
        """The health item once it has this status."""
        wait_until(lambda: self.health().get(name, {}).get("status") == status, timeout_s, f"health says {name} is {status}")
        return self.health()[name]


@pytest.fixture
def start_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Station]]:
    """`cameras`: names, or name -> keys of its own. `camera`: keys of every camera. `toml`: more tables (recipes come first in it).
    `mqtt`, `triton`: more keys of those tables. `broker`: BrokerOptions as a dict. `state`: where the state lies. `folders`: camera ->
    folder. `daemon=False`: not started. `acks`: the MES acknowledges."""
    made: list[Callable[[], None]] = []

    def start(
        cameras: Sequence[str] | Mapping[str, str] = ("cam1",),
        *,
        camera: str = "",
        toml: str = "",
        mqtt: str = "",
        triton: str = "",
        broker: Mapping[str, Any] | None = None,
        state: Path | None = None,
        folders: Mapping[str, Path] | None = None,
        daemon: bool = True,
        acks: bool = False,
    ) -> Station:
        _require_triton()
        home = tmp_path_factory.mktemp("station")
        options = {"extra": "max_queued_messages 0\nautosave_interval 1", **(broker or {})}
        (home / "mosquitto").mkdir()
        its_broker = Broker(home / "mosquitto", BrokerOptions(**options))
        made.append(its_broker.close)
        its_broker.start()
        its_daemon = Daemon(home, "")
        its_daemon.state = state or its_daemon.state
        server = TritonServer(its_daemon.state / "models", home / "triton.log")
        server.repository.mkdir(parents=True, exist_ok=True)
        made.append(server.kill)
        server.start()
        places = {name: home / "drop" / name for name in cameras} | dict(folders or {})
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        own = cameras if isinstance(cameras, Mapping) else dict.fromkeys(cameras, "")
        head = HEAD.format(triton=server.grpc, port=its_broker.port, triton_keys=triton, mqtt_keys=mqtt, toml=toml)
        keys = {name: f"{camera}\n{own.get(name, '')}" for name in places}
        keys = {name: text if "recipe =" in text else f'recipe = "maps"\n{text}' for name, text in keys.items()}
        tables = [CAMERA.format(name=name, folder=place, keys=keys[name]) for name, place in places.items()]
        its_daemon.config.write_text(head + "".join(tables))
        made.append(its_daemon.close)
        station = Station(home, its_broker, server, its_daemon, places)
        station.mes = Mes(its_broker.port, BASE, acks=acks)
        made.append(station.mes.close)
        if daemon:
            its_daemon.start()
        return station

    yield start
    for undo in reversed(made):
        undo()
