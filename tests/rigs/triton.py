"""The real Triton server, through scripts/triton.

Fixtures
- `triton`: one server for the whole test session, with an empty repository. Give your models names that no other test uses; never
  kill, stop or freeze this one.
- `triton_environment`: the folder of the server's virtual environment, for tests that look into it.
- `own_triton`: a function `own_triton(load=(), repository=None, start=True) -> TritonServer` for tests that take the server away;
  ended after the test.

    async def test_x(triton):
        triton.add_constant_model("mine", scores=[0.1, 0.9])
        triton.load("mine")
        client = tritonclient.grpc.aio.InferenceServerClient(triton.grpc)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rigs.processes import freeze, in_main_thread, wait_gone, wait_until

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("EDGED_TRITON_ENV", ROOT / ".venv-triton"))

CONSTANT = """
import json, time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        self.scores = np.array({scores!r}, np.float32)

    def execute(self, requests):
        time.sleep({cost_s!r})
        answers = []
        for request in requests:
            n = pb.get_input_tensor_by_name(request, "{input}").shape()[0]
            answers.append(pb.InferenceResponse([pb.Tensor("{output}", np.tile(self.scores, (n, 1)))]))
        return answers
"""

FINGERPRINT = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({cost_s!r})
        answers = []
        for request in requests:
            images = pb.get_input_tensor_by_name(request, "{input}").as_numpy()
            flat = images.reshape(len(images), -1).astype(np.float64)
            found = np.stack([flat.mean(1), flat[:, 0], flat[:, -1]], axis=1).astype(np.float32)
            answers.append(pb.InferenceResponse([pb.Tensor("{output}", found)]))
        return answers
"""

CONFIG = """
backend: "python"
max_batch_size: {max_batch}
input [ {{ name: "{input}" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ {outputs} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{batching}
"""


class TritonServer:
    """One running server.

    `grpc`, `http`, `metrics`: "127.0.0.1:port", the same after `restart`. `pid`: of tritonserver itself, `launcher_pid`: of the
    scripts/triton that minds it. `repository`: its model repository, yours to write. `log`: what it printed.
    """

    def __init__(self, repository: Path, log: Path) -> None:
        self.repository = repository
        self.log = log
        self.grpc = self.http = self.metrics = "127.0.0.1:0"
        self.pid = self.launcher_pid = 0
        self._launcher: subprocess.Popen[str] | None = None

    # --- its life --------------------------------------------------------------------------------------------------------
    def start(self, load: Sequence[str] = ()) -> None:
        """Starts it (on the ports it had before, if any) and returns when it is ready; AssertionError with Triton's words if it is not."""
        assert self._launcher is None, "this Triton is running"
        command = [sys.executable, str(ROOT / "scripts/triton"), "--environment", str(ENVIRONMENT)]
        command += ["--repository", str(self.repository), "--log", str(self.log)]
        for option, address in (("--grpc-port", self.grpc), ("--http-port", self.http), ("--metrics-port", self.metrics)):
            command += [option, address.rpartition(":")[2]]
        if load:
            command += ["--load", *load]
        if in_main_thread():
            command.append("--die-with-parent")
        launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert launcher.stdout is not None
        line = launcher.stdout.readline()
        if not line.startswith("triton ready "):
            raise AssertionError(f"Triton did not start: {line}{launcher.communicate()[1]}")
        facts = dict(word.split("=", 1) for word in line.split()[2:])
        self.grpc, self.http, self.metrics, self.pid = facts["grpc"], facts["http"], facts["metrics"], int(facts["pid"])
        self.launcher_pid = launcher.pid
        self._launcher = launcher

    def stop(self) -> None:
        """Asks it to end, as an operator would, and waits until it has."""
        self._end(lambda launcher: launcher.send_signal(signal.SIGTERM))

    def kill(self) -> None:
        """kill -9: the server is gone in the middle of whatever it did."""
        self._end(lambda _launcher: os.kill(self.pid, signal.SIGKILL))

    def _end(self, how: Callable[[subprocess.Popen[str]], None]) -> None:
        if self._launcher is None:
            return
        how(self._launcher)
        wait_gone(self._launcher, 30)
        for pipe in (self._launcher.stdout, self._launcher.stderr):
            if pipe is not None:
                pipe.close()
        self._launcher = None

    def restart(self, load: Sequence[str] = ()) -> None:
        """Stops it if it runs, and starts it on the same ports; nothing is loaded but `load`."""
        self.stop()
        self.start(load)

    @property
    def running(self) -> bool:
        """Started and not ended by us; frozen counts as running."""
        return self._launcher is not None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        freeze(self.pid)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    # --- its models ------------------------------------------------------------------------------------------------------
    def add_model(self, name: str, config: str, files: Mapping[str, str | bytes], version: int = 1) -> Path:
        """Writes one model version into the repository (not loaded yet) and returns its folder. `files` by name, beside model.py."""
        folder = self.repository / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (self.repository / name / "config.pbtxt").write_text(config)
        for file, content in files.items():
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    def add_constant_model(
        self,
        name: str,
        scores: Sequence[float] = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        *,
        dims: Sequence[int] = (-1,),
        max_batch: int = 64,
        cost_s: float = 0.0,
        batch_delay_us: int | None = None,
        input_name: str = "INPUT",
        output_name: str = "PROBS",
        version: int = 1,
    ) -> None:
        """A model that answers `scores` to every image: uint8 [batch, *dims] in, float32 [batch, len(scores)] out, after `cost_s`.

        `batch_delay_us` turns dynamic batching on.
        """
        source = CONSTANT.format(scores=[float(score) for score in scores], cost_s=cost_s, input=input_name, output=output_name)
        config = self._config(dims, len(scores), max_batch, batch_delay_us, input_name, output_name)
        self.add_model(name, config, {"model.py": source}, version)

    def add_fingerprint_model(
        self,
        name: str,
        *,
        dims: Sequence[int] = (-1,),
        max_batch: int = 64,
        cost_s: float = 0.0,
        batch_delay_us: int | None = None,
        input_name: str = "INPUT",
        output_name: str = "PROBS",
    ) -> None:
        """A model whose answer tells which image it saw: float32 [batch, 3] = mean, first and last byte of each image."""
        source = FINGERPRINT.format(cost_s=cost_s, input=input_name, output=output_name)
        self.add_model(name, self._config(dims, 3, max_batch, batch_delay_us, input_name, output_name), {"model.py": source})

    @staticmethod
    def _config(dims: Sequence[int], outputs: int, max_batch: int, delay_us: int | None, input_name: str, output_name: str) -> str:
        batching = "" if delay_us is None else f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}"
        numbers = ", ".join(map(str, dims))
        return CONFIG.format(max_batch=max_batch, input=input_name, output=output_name, dims=numbers, outputs=outputs, batching=batching)

    def copy_model(self, source: Path) -> None:
        """Copies a model's folder (config.pbtxt and versions) from another repository."""
        shutil.copytree(source, self.repository / source.name, dirs_exist_ok=True)

    def load(self, name: str) -> None:
        """Loads or reloads it and waits; AssertionError with Triton's words if it cannot be."""
        self.post(f"v2/repository/models/{name}/load")

    def unload(self, name: str) -> None:
        self.post(f"v2/repository/models/{name}/unload")
        wait_until(lambda: not self.ready(name), 20, f"Triton has unloaded {name}")

    def ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/models/{name}/ready", timeout=10) as answer:
                return int(answer.status) == 200
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return False

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call of Triton's HTTP API; the answer's JSON, or None if it has none."""
        request = urllib.request.Request(f"http://{self.http}/{path}", json.dumps(body or {}).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                said = answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                words = refusal.read().decode(errors="replace")
            raise AssertionError(f"Triton refused {path}: {words}") from None
        return json.loads(said) if said else None

    def inference_count(self, name: str) -> int:
        """How many images the model has judged since it was loaded; counted a moment after each answer is sent."""
        with urllib.request.urlopen(f"http://{self.http}/v2/models/{name}/stats", timeout=10) as answer:
            return sum(int(version["inference_count"]) for version in json.load(answer)["model_stats"])


def _require_triton() -> None:
    if os.environ.get("EDGED_TEST_NO_TRITON") == "1":
        pytest.skip("NOT RUN: EDGED_TEST_NO_TRITON=1 is set, so the real Triton was not asked")
    if not (ENVIRONMENT / "bin/python").exists():
        pytest.fail(f"there is no Triton environment at {ENVIRONMENT}: run scripts/setup, or set EDGED_TEST_NO_TRITON=1", pytrace=False)


@pytest.fixture(scope="session")
def triton_environment() -> Path:
    """The virtual environment that holds the server; the test fails where there is none, or is NOT RUN where that was asked for."""
    _require_triton()
    return ENVIRONMENT


@pytest.fixture(scope="session")
def triton(triton_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The session's server. Add models under names of your own; never take it away."""
    place = tmp_path_factory.mktemp("triton")
    (place / "repository").mkdir()
    server = TritonServer(place / "repository", place / "triton.log")
    server.start()
    yield server
    server.kill()  # a polite end takes Triton three seconds


@pytest.fixture
def own_triton(triton_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., TritonServer]]:
    """`own_triton(load=(), repository=None, start=True) -> TritonServer`: this test's own; `start=False` leaves that to `.start()`."""
    servers: list[TritonServer] = []

    def make(load: Sequence[str] = (), repository: Path | None = None, start: bool = True) -> TritonServer:
        place = tmp_path_factory.mktemp("own-triton")
        repository = repository or place / "repository"
        repository.mkdir(exist_ok=True)
        server = TritonServer(repository, place / "triton.log")
        servers.append(server)
        if start:
            server.start(load)
        return server

    yield make
    for server in servers:
        server.kill()
