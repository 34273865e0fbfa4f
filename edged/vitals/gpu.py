"""GPU figures through NVML, sampled in a thread of their own.

Invariants
- NVML is only ever called from the sampling thread: its calls may block for seconds, or for good when a GPU falls off the bus.
- A station without a GPU or driver is well: the snapshot then says why, `unknown` in health, never an error.
- A figure the GPU does not support is None. A snapshot is frozen and replaced as a whole.
- The thread is a daemon: a hung driver cannot keep edged from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import pynvml

from edged.config import Gpu, GpuMode
from edged.nouns import Board, HealthStatus

T = TypeVar("T")

_REASONS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "the NVIDIA driver library libnvidia-ml.so.1 is not installed",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA kernel driver is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "edged may not open the NVIDIA device nodes",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA library and kernel driver are of different versions; restart the station",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU has fallen off the bus; restart the station",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver library libnvidia-ml.so.1 is too old",
}
_ABSENT = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
"""Answers that mean there is no GPU here, rather than a GPU in trouble."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU at one moment; None where it does not give the figure. `processes` counts those that compute on it."""

    index: int
    name: str
    uuid: str | None = None
    utilization_ratio: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """Either GPUs, or `reason`: a sentence that begins with "no GPU: "."""

    gpus: tuple[GpuFacts, ...] = ()
    reason: str | None = None
    driver: str | None = None
    taken: datetime | None = None


class GpuWatch:
    """Samples every `poll_s` while `run` runs; `snapshot` may be read at any time from any thread."""

    def __init__(
        self,
        config: Gpu,
        board: Board,
        *,
        sample: Callable[[], GpuSnapshot] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._board = board
        self._sample = sample or Nvml().sample
        self._monotonic = monotonic
        self._snapshot = GpuSnapshot(reason="no GPU: not looked for yet")
        self._begun: float | None = None  # a call into NVML that has not come back
        if config.mode is GpuMode.OFF:
            self._snapshot = GpuSnapshot(reason="no GPU: switched off by [gpu] mode")

    def snapshot(self) -> GpuSnapshot:
        """The last sample; without figures when the driver has not answered for three periods."""
        begun = self._begun
        stuck_s = 0.0 if begun is None else self._monotonic() - begun
        if stuck_s <= max(3 * self._config.poll_s, 10.0):
            return self._snapshot
        reason = f"no GPU: the NVIDIA driver has not answered for {stuck_s:.0f} s; restart the station"
        return GpuSnapshot(reason=reason, driver=self._snapshot.driver)

    async def run(self, stop: asyncio.Event) -> None:
        """Samples until `stop`; never raises for a GPU, driver or library that is missing or broken."""
        if self._config.mode is GpuMode.OFF:
            self._report()
            await stop.wait()
            return
        loop = asyncio.get_running_loop()
        news, ended, halt = asyncio.Event(), threading.Event(), threading.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed when a hung driver answers after all
                loop.call_soon_threadsafe(news.set)

        def work() -> None:
            try:
                while not halt.is_set():
                    self._begun = self._monotonic()
                    self._snapshot = self._sample()
                    self._begun = None
                    tell()
                    halt.wait(self._config.poll_s)
            finally:
                ended.set()
                tell()

        thread = threading.Thread(target=work, name="edged-gpu", daemon=True)
        thread.start()
        while not stop.is_set() and not ended.is_set():
            news.clear()
            waits = [asyncio.ensure_future(event.wait()) for event in (stop, news)]
            await asyncio.wait(waits, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            self._report()
        if not stop.is_set():
            thread.join()  # until its traceback is written
            raise RuntimeError("the GPU sampling thread ended by itself")
        halt.set()

    def _report(self) -> None:
        now = self.snapshot()
        if now.gpus:
            self._board.report("gpu", HealthStatus.OK, gpus=len(now.gpus), driver=now.driver)
        elif now.driver:  # there was a driver, so there should be figures
            self._board.report("gpu", HealthStatus.DEGRADED, now.reason or "", "Run nvidia-smi on the station.", driver=now.driver)
        else:
            self._board.report("gpu", HealthStatus.UNKNOWN, now.reason or "")


class Nvml:
    """Takes one sample at a time; keeps the library initialised between samples and starts it anew after any failure."""

    def __init__(self) -> None:
        self._up = False
        self._driver: str | None = None

    def sample(self) -> GpuSnapshot:
        """Blocks as long as the driver does."""
        try:
            if not self._up:
                pynvml.nvmlInit()
                self._up = True
                self._driver = _text(pynvml.nvmlSystemGetDriverVersion())
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            gpus = tuple(_facts(index, handle) for index, handle in enumerate(handles))
        except pynvml.NVMLError as refused:
            return GpuSnapshot(reason=f"no GPU: {self._failed(refused)}", driver=self._driver, taken=datetime.now(UTC))
        reason = None if gpus else "no GPU: the NVIDIA driver runs, but finds no GPU"
        return GpuSnapshot(gpus, reason, self._driver, datetime.now(UTC))

    def _failed(self, refused: pynvml.NVMLError) -> str:
        if self._up:
            _supported(pynvml.nvmlShutdown)
            self._up = False
        if refused.value in _ABSENT:
            self._driver = None
        return _REASONS.get(refused.value, f"NVML says: {refused}")


def _facts(index: int, handle: Any) -> GpuFacts:
    usage = _supported(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    memory = _supported(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    power_mw = _supported(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    limit_mw = _supported(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    running = _supported(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return GpuFacts(
        index=index,
        name=_text(_supported(lambda: pynvml.nvmlDeviceGetName(handle))) or "unnamed GPU",
        uuid=_text(_supported(lambda: pynvml.nvmlDeviceGetUUID(handle))),
        utilization_ratio=None if usage is None else usage.gpu / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_celsius=_supported(lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        power_watts=None if power_mw is None else power_mw / 1000,
        power_limit_watts=None if limit_mw is None else limit_mw / 1000,
        sm_clock_mhz=_supported(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))),
        memory_clock_mhz=_supported(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))),
        processes=None if running is None else len(running),
    )


def _supported(ask: Callable[[], T]) -> T | None:
    """None for a figure this GPU or driver does not give; a lost GPU still raises."""
    try:
        return ask()
    except pynvml.NVMLError as refused:
        if refused.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_RESET_REQUIRED):
            raise
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
