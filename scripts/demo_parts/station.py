"""A whole station for a while: the real Triton, the real broker and the daemon, each a process of its own on free loopback ports.

Invariants
- Everything started here is ended here, the last started first, also when a start fails half way.
- Nothing outside `home` is written, but shared memory that its owners remove.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """\
[station]
enterprise = "demo"
site = "fab"
area = "litho"
tool = "INSP01"
state_dir = "{home}/state"

[[camera]]
name = "dies"
folder = "{home}/drop/dies"
recipe = "dies"
incomplete_after_s = {incomplete_s}
[[camera.identity]]
kind = "regex"
pattern = '(?P<lot_id>[A-Z0-9]+)_(?P<wafer_id>\\d+)_(?P<die_x>-?\\d+)_(?P<die_y>-?\\d+)_(?P<site>\\d+)'
[camera.frame]
um_per_px = 0.325

[[camera]]
name = "maps"
folder = "{home}/drop/maps"
recipe = "wafer-maps"
incomplete_after_s = {incomplete_s}
[[camera.identity]]
kind = "regex"
pattern = '(?P<lot_id>LOT\\w+)-(?P<wafer_id>\\d+)'

[[recipe]]
name = "dies"
models = ["die_defect"]
[recipe.reference]
pattern = "{{stem}}_temp.{{ext}}"

[[recipe]]
name = "wafer-maps"
models = ["wafer_pattern"]

[triton]
endpoints = ["{triton}"]

[mqtt]
host = "127.0.0.1"
port = {broker}

[http]
bind = "127.0.0.1:{http}"

[log]
format = "json"
"""


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free, else any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("unreachable")


class Station:
    """`with Station(home) as station:` returns when the daemon says that it is ready."""

    def __init__(self, home: Path, *, incomplete_s: float = 10.0) -> None:
        self.home = home
        self.dies, self.maps = home / "drop" / "dies", home / "drop" / "maps"
        self.ledger = home / "state" / "ledger.db"
        self.config = home / "edged.toml"
        self.broker_port = free_port()
        self.http = f"http://127.0.0.1:{free_port(9180)}"
        self._incomplete_s = incomplete_s
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        models = self.home / "state" / "models"
        for folder in (self.dies, self.maps, models):
            folder.mkdir(parents=True, exist_ok=True)
        scripts = ROOT / "scripts"
        self._spawn([str(scripts / "broker"), "--port", str(self.broker_port)], "broker")
        ports = [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]
        triton = self._spawn([sys.executable, str(scripts / "triton"), "--repository", str(models), *ports], "triton", read=True)
        assert triton.stdout is not None
        line = triton.stdout.readline()
        if not line.startswith("triton ready"):
            raise SystemExit(f"Triton did not start: {line}{(self.home / 'triton.log').read_text()}")
        address = next(word.removeprefix("grpc=") for word in line.split() if word.startswith("grpc="))
        self.config.write_text(
            CONFIG.format(
                home=self.home,
                triton=address,
                broker=self.broker_port,
                http=self.http.rpartition(":")[2],
                incomplete_s=self._incomplete_s,
            )
        )
        daemon = self._spawn([str(Path(sys.executable).with_name("edged")), "run", "--config", str(self.config)], "edged")
        self._wait_ready(daemon)

    def _spawn(self, command: list[str], name: str, *, read: bool = False) -> subprocess.Popen[str]:
        log = self._stack.enter_context((self.home / f"{name}.log").open("a"))
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if read else log, stderr=log, text=True, start_new_session=True
        )
        self._stack.callback(_end, process)
        return process

    def _wait_ready(self, daemon: subprocess.Popen[str], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if daemon.poll() is not None:
                raise SystemExit(f"the daemon ended with {daemon.returncode}:\n{(self.home / 'edged.log').read_text()[-3000:]}")
            if self.get("/readyz", ok=(200,)) is not None:
                return
            time.sleep(0.1)
        raise SystemExit(f"the daemon was not ready in {timeout_s:g} s: {self.get('/readyz', ok=(200, 503))}")

    def get(self, path: str, ok: tuple[int, ...] = (200,)) -> Any:
        """The JSON answer, or None where the daemon gives another status or none."""
        try:
            request = urllib.request.Request(self.http + path, headers={"Accept": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer) if answer.status in ok else None
        except urllib.error.HTTPError as error:
            return json.load(error) if error.code in ok else None
        except (OSError, ValueError):
            return None


def _end(process: subprocess.Popen[str]) -> None:
    """Asks politely, then ends the process with whatever it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
