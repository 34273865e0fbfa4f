"""GPU figures: against a hand-made NVML library, without a driver, and with a driver that hangs.

pynvml loads libnvidia-ml.so.1 once per process, so each case runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edged.config import Gpu, GpuMode
from edged.nouns import HealthStatus
from edged.vitals.gpu import GpuFacts, GpuSnapshot, GpuWatch
from edged.vitals.health import HealthBoard

CASES = """
import dataclasses, json, os, sys
from edged.vitals.gpu import Nvml
answers = []
for environ in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if os.fork() == 0:  # a process of its own, without the cost of another interpreter
        os.environ.update(environ)
        nvml = Nvml()
        os.write(writing, json.dumps([dataclasses.asdict(nvml.sample()) for _ in range(2)], default=str).encode())
        os._exit(0)
    os.close(writing)
    answers.append(json.loads(os.read(reading, 65536)))
print(json.dumps(answers))
"""
HANG = """
import asyncio, json
from edged.config import Gpu
from edged.vitals.gpu import GpuWatch
from edged.vitals.health import HealthBoard
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    watch = GpuWatch(Gpu(poll_s=0.5), HealthBoard())
    await watch.run(stop)
    print(json.dumps([{"reason": watch.snapshot().reason}]))
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of our own libnvidia-ml.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT RUN: no C compiler for the hand-made NVML library")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def in_a_process(code: str, folder: Path, argument: str = "", **environ: str) -> list[Any]:
    environ |= {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code, argument], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


REASONS = {
    "driver not loaded": ({"FAKE_NVML_INIT": "9"}, "the NVIDIA kernel driver is not loaded"),
    "no permission": ({"FAKE_NVML_INIT": "4"}, "edged may not open the NVIDIA device nodes"),
    "half updated": (
        {"FAKE_NVML_INIT": "18"},
        "the NVIDIA library and kernel driver are of different versions; restart the station",
    ),
    "no board": ({"FAKE_NVML_GPUS": "0"}, "the NVIDIA driver runs, but finds no GPU"),
    "board lost": ({"FAKE_NVML_LOST": "1"}, "the GPU has fallen off the bus; restart the station"),
    "unknown": ({"FAKE_NVML_INIT": "999"}, "NVML says: Unknown Error"),
}


@pytest.fixture(scope="module")
def samples(library: Path) -> dict[str, list[dict[str, Any]]]:
    """Two samples in a row of each case; `well` is a station with two GPUs."""
    environs = [{}, *(environ for environ, _ in REASONS.values())]
    return dict(zip(["well", *REASONS], in_a_process(CASES, library, json.dumps(environs)), strict=True))


def test_a_gpu_gives_all_its_figures_in_base_units_at_every_sample(samples: dict[str, list[dict[str, Any]]]) -> None:
    first, second = samples["well"]
    assert first["driver"] == "550.54.15"
    assert first["reason"] is None
    assert first["gpus"][0] == second["gpus"][0]
    assert first["gpus"][0] == {
        "index": 0,
        "name": "Fake L4",
        "uuid": "GPU-0000",
        "utilization_ratio": 0.37,
        "memory_used_bytes": 4_000_000_000,
        "memory_total_bytes": 24_000_000_000,
        "temperature_celsius": 54.0,
        "power_watts": 61.25,
        "power_limit_watts": 72.0,
        "sm_clock_mhz": 2040,
        "memory_clock_mhz": 6251,
        "processes": 1,
    }


def test_a_figure_the_gpu_does_not_support_is_none_and_the_others_stay(samples: dict[str, list[dict[str, Any]]]) -> None:
    gpu = samples["well"][0]["gpus"][1]
    assert (gpu["power_watts"], gpu["temperature_celsius"], gpu["utilization_ratio"]) == (None, None, None)
    assert (gpu["name"], gpu["memory_used_bytes"], gpu["processes"]) == ("Fake L5", 4_000_000_000, 0)


@pytest.mark.parametrize("case", REASONS)
def test_a_gpu_that_cannot_be_read_has_a_reason(samples: dict[str, list[dict[str, Any]]], case: str) -> None:
    for sample in samples[case]:
        assert (sample["gpus"], sample["reason"]) == ([], f"no GPU: {REASONS[case][1]}")


def test_without_a_driver_library_the_reason_names_it(tmp_path: Path) -> None:
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_text("not a library")  # found before any real one
    ((sample, _),) = in_a_process(CASES, tmp_path, json.dumps([{}]))
    assert sample["reason"] == "no GPU: the NVIDIA driver library libnvidia-ml.so.1 is not installed"
    assert sample["driver"] is None


def test_a_driver_that_never_answers_does_not_keep_the_process_from_ending(library: Path) -> None:
    assert in_a_process(HANG, library, FAKE_NVML_HANG="1") == [{"reason": "no GPU: not looked for yet"}]


async def run_until(watch: GpuWatch, board: HealthBoard, status: HealthStatus) -> None:
    stop = asyncio.Event()
    board.listen(lambda item: stop.set() if item.status is status else None)
    await asyncio.wait_for(watch.run(stop), 10)


async def test_a_station_with_a_gpu_shows_the_last_sample() -> None:
    board = HealthBoard()
    snapshot = GpuSnapshot((GpuFacts(0, "L4", utilization_ratio=0.5),), None, "550")
    watch = GpuWatch(Gpu(poll_s=0.5), board, sample=lambda: snapshot)
    await run_until(watch, board, HealthStatus.OK)
    assert watch.snapshot() == snapshot
    assert board.items()[0].facts == {"gpus": 1, "driver": "550"}


async def test_a_driver_without_figures_needs_attention_but_no_driver_does_not() -> None:
    board = HealthBoard()
    await run_until(GpuWatch(Gpu(), board, sample=lambda: GpuSnapshot(reason="no GPU: lost", driver="550")), board, HealthStatus.DEGRADED)
    assert board.items()[0].cause == "no GPU: lost"
    other = HealthBoard()
    await run_until(GpuWatch(Gpu(), other, sample=lambda: GpuSnapshot(reason="no GPU: none")), other, HealthStatus.UNKNOWN)


async def test_a_driver_that_stopped_answering_is_told_with_its_silence() -> None:
    board, release, time_s = HealthBoard(), threading.Event(), [100.0]

    def hang() -> GpuSnapshot:
        release.wait(10)
        return GpuSnapshot()

    watch = GpuWatch(Gpu(poll_s=0.5), board, sample=hang, monotonic=lambda: time_s[0])
    stop = asyncio.Event()
    running = asyncio.create_task(watch.run(stop))
    await asyncio.sleep(0.05)
    time_s[0] += 42
    assert watch.snapshot().reason == "no GPU: the NVIDIA driver has not answered for 42 s; restart the station"
    release.set()
    stop.set()
    await running


async def test_a_bug_in_the_sampling_thread_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_type))

    def broken() -> GpuSnapshot:
        raise KeyError("bug")

    with pytest.raises(RuntimeError, match="ended by itself"):
        await GpuWatch(Gpu(), HealthBoard(), sample=broken).run(asyncio.Event())
    assert shown == [KeyError]


async def test_switched_off_nothing_is_sampled() -> None:
    def never() -> GpuSnapshot:
        raise AssertionError("sampled")

    board = HealthBoard()
    watch = GpuWatch(Gpu(mode=GpuMode.OFF), board, sample=never)
    await run_until(watch, board, HealthStatus.UNKNOWN)
    assert watch.snapshot().reason == "no GPU: switched off by [gpu] mode"
