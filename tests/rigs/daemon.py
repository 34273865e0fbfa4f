"""edged itself, as a process: `edged run` with a configuration of the test's own.

Fixture
- `start_daemon`: a function `start_daemon(toml: str, wait=True) -> Daemon`; state_dir and [http] bind are set by the rig, EDGED_* of the
  test's own environment is left out. Ended after the test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rigs.processes import free_port, wait_gone, wait_until

EDGED = Path(sys.executable).with_name("edged")
ONE_CAMERA = """
[station]
enterprise = "acme"
site = "fab2"
area = "litho"
tool = "INSP07"
[triton]
endpoints = ["127.0.0.1:{triton}"]
[mqtt]
port = {mqtt}
[[recipe]]
name = "maps"
models = ["wafer_pattern"]
[[camera]]
name = "cam1"
folder = "{folder}"
recipe = "maps"
"""
"""A whole configuration; more keys of the camera may follow it."""


class Daemon:
    """One `edged run`. `state`: its state_dir; `config`: its file; `log`: its JSON lines; `url`: its door.

    `variables`: further variables of its environment.
    """

    def __init__(self, home: Path, toml: str) -> None:
        self.home = home
        self.state = home / "state"
        self.config = home / "edged.toml"
        self.log = home / "edged.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.config.write_text(toml)
        self.variables: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("EDGED_")}
        place = {"EDGED_STATION__STATE_DIR": f'"{self.state}"', "EDGED_HTTP__BIND": f'"{self.url.removeprefix("http://")}"'}
        return {**ours, **place, "EDGED_LOG__FORMAT": '"json"', **self.variables}

    def start_without_override(self) -> None:
        """As root, without root's power to ignore permissions, so that a locked folder is locked for it."""
        drop = "-dac_override,-dac_read_search"
        root = os.getuid() == 0
        self.start(ready=False, prefix=["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if root else [])

    def start(self, wait: bool = True, ready: bool = True, prefix: Sequence[str] = ()) -> None:
        """Returns when the door is open and, unless `ready` is False, everything that a verdict needs is well."""
        with self.log.open("ab") as log:
            command = [*prefix, str(EDGED), "run", "--config", str(self.config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment())
        if wait:
            wait_until(lambda: not self.running or self.get("/readyz", 503) is not None, 30, "the door opens")
            wait_until(lambda: not (ready and self.running) or self.get("/readyz") is not None, 45, "the daemon is ready")
            assert self.running, self.said()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait(self, timeout_s: float = 20) -> int:
        """The exit status, once it ends by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
            wait_gone(self._process, 40)
        return int(self._process.returncode)

    def get(self, path: str, *also: int) -> Any:
        """The JSON answer; None for a status other than 200 and `also`, and while nobody answers."""
        request = urllib.request.Request(self.url + path, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error) if error.code in also else None
        except (OSError, ValueError):
            return None

    def text(self, path: str) -> str:
        """The answer as it is."""
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another `edged` command under the same configuration and environment."""
        command = [str(EDGED), arguments[0], "--config", str(self.config), *arguments[1:]]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60, env=self.environment())

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def close(self) -> None:
        """For good: nobody will ask any more what was under way when it was killed."""
        if self.running:
            self.kill()
        place = os.fsencode(self.state.resolve()) + b"\0"
        for flights in Path("/dev/shm").glob(f"edged-flights-{os.geteuid()}-*"):
            with suppress(OSError):
                if place in flights.read_bytes()[:8192]:
                    flights.with_name(flights.name.replace("-flights-", "-stack-", 1)).unlink(missing_ok=True)
                    flights.unlink()


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    daemons: list[Daemon] = []

    def start(toml: str, wait: bool = True, run: bool = True) -> Daemon:
        daemon = Daemon(tmp_path_factory.mktemp("edged"), toml)
        daemons.append(daemon)
        if run:
            daemon.start(wait)
        return daemon

    yield start
    for daemon in daemons:
        daemon.close()
