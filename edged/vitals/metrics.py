"""Prometheus metrics under the names of the contract: base units, no labels whose values grow without bound.

Counters and the histogram are fed by the pipeline; everything that is a state is read from `gauges` at each scrape.
"""

from __future__ import annotations

import platform
from collections import Counter as TallyOf
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edged.nouns import VerdictKind
from edged.vitals.gpu import GpuFacts
from edged.vitals.latency import LatencyWindow

STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

CIRCUIT_STATES = ("closed", "half-open", "open")


@dataclass(frozen=True, slots=True)
class ModelGauges:
    """One model version at one endpoint. `circuit`: one of CIRCUIT_STATES; `opened`: how often it opened; `stuck`: requests overdue."""

    name: str
    version: str
    endpoint: str
    circuit: str
    opened: int
    stuck: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """The station's state at one scrape. None, or an empty mapping: not known, so the metric is left out (absent is not 0).

    `last_file_s`: camera -> Unix seconds. `outbox_rows`: state -> rows. `models`: (name, version) of what is loaded. `blocked_slots`:
    endpoint -> slots that its Triton may still read.
    """

    queues: Mapping[str, int] = field(default_factory=dict)
    outbox_rows: Mapping[str, int] = field(default_factory=dict)
    outbox_oldest_s: float | None = None
    db_bytes: int | None = None
    disk_free_bytes: int | None = None
    last_file_s: Mapping[str, float] = field(default_factory=dict)
    watch_overflows: int | None = None
    triton_up: bool | None = None
    tasks: int | None = None
    models: tuple[tuple[str, str], ...] = ()
    served: tuple[ModelGauges, ...] = ()
    blocked_slots: Mapping[str, int] = field(default_factory=dict)
    gpus: tuple[GpuFacts, ...] = ()


class Metrics:
    """One registry of its own, so that two instances in one process (tests) never collide."""

    def __init__(self, version: str, gauges: Callable[[], Gauges] = Gauges) -> None:
        self.latency = LatencyWindow()
        self._counts: TallyOf[str] = TallyOf()
        self.registry = CollectorRegistry(auto_describe=True)
        self._images = Counter("edged_images", "Images that reached an outcome.", ("camera", "outcome"), registry=self.registry)
        self._verdicts = Counter("edged_verdicts", "Verdicts recorded.", ("verdict",), registry=self.registry)
        self._stages = Histogram("edged_stage_seconds", "Duration of a stage.", ("stage",), registry=self.registry, buckets=STAGE_BUCKETS_S)
        self._published = Counter("edged_publish", "Answers of the broker to publishes.", ("reason",), registry=self.registry)
        for kind in VerdictKind:  # a series that begins at 0 shows its first increase
            self._verdicts.labels(kind.value)
        self.registry.register(_States(version, gauges))
        ProcessCollector(registry=self.registry)

    def image_done(self, camera: str, outcome: str) -> None:
        """`outcome`: recorded, known, renamed ... as the ledger answered."""
        self._images.labels(camera, outcome).inc()

    def verdict(self, kind: str) -> None:
        """`kind`: a VerdictKind or its text; anything else raises ValueError (a label must come from a closed list)."""
        known = VerdictKind(kind).value
        self._verdicts.labels(known).inc()
        self._counts.update((known,))

    def verdicts(self) -> dict[str, int]:
        """How many of each kind since the start, zeros included."""
        return {kind.value: self._counts[kind.value] for kind in VerdictKind}

    def stage(self, stage: str, seconds: float) -> None:
        """`stage`: settle, decode, preprocess, queue, infer, verdict, record, publish, total."""
        self._stages.labels(stage).observe(seconds)
        self.latency.add(stage, seconds)

    def publish(self, reason: str) -> None:
        """`reason`: the PUBACK reason code as text (`0x00`), or `lost` where the connection went first."""
        self._published.labels(reason).inc()

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The scrape's body and Content-Type; OpenMetrics where `accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _States(Collector):
    """Reads the station's state once per scrape."""

    def __init__(self, version: str, gauges: Callable[[], Gauges]) -> None:
        self._version = version
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        return ()  # registration must not read the state

    def collect(self) -> Iterable[Metric]:
        now = self._gauges()
        yield _gauge("edged_build_info", "Version of edged.", {(self._version, platform.python_version()): 1.0}, ("version", "python"))
        by_name: list[tuple[str, str, Mapping[str, float], str]] = [
            ("edged_queue_depth", "Items that wait in a channel.", now.queues, "queue"),
            ("edged_outbox_rows", "Rows of the outbox.", now.outbox_rows, "state"),
            ("edged_folder_last_file_timestamp_seconds", "When the newest file of a camera was seen.", now.last_file_s, "camera"),
        ]
        for name, text, values, which in by_name:
            if values:
                yield _gauge(name, text, {(key,): value for key, value in values.items()}, (which,))
        plain: list[tuple[str, str, float | None]] = [
            ("edged_outbox_oldest_seconds", "Age of the oldest undelivered row.", now.outbox_oldest_s),
            ("edged_db_bytes", "Size of the ledger with its write-ahead log.", now.db_bytes),
            ("edged_disk_free_bytes", "Free space where the ledger lies.", now.disk_free_bytes),
            ("edged_triton_up", "1 while Triton answers.", now.triton_up),
            ("edged_tasks", "Tasks of the event loop; a number that only grows is a leak.", now.tasks),
        ]
        for name, text, value in plain:
            if value is not None:
                yield _gauge(name, text, {(): float(value)})
        if now.watch_overflows is not None:
            yield CounterMetricFamily("edged_watch_overflow", "Times the kernel dropped inotify events.", now.watch_overflows)
        if now.models:
            yield _gauge("edged_model_info", "Models loaded.", dict.fromkeys(now.models, 1.0), ("name", "version"))
        yield from _triton_metrics(now)
        yield from _gpu_metrics(now.gpus)


def _triton_metrics(now: Gauges) -> Iterable[Metric]:
    """A circuit's state is one series of value 1 among its possible states, as Prometheus wants an enumeration."""
    if now.served:
        whose = ("model", "version", "endpoint")
        state = GaugeMetricFamily("edged_triton_circuit_state", "1 for the state that the circuit is in.", labels=(*whose, "state"))
        opened = CounterMetricFamily("edged_triton_circuit_opened", "Times the circuit opened.", labels=whose)
        stuck = GaugeMetricFamily("edged_triton_stuck_requests", "Requests that are overdue and still unanswered.", labels=whose)
        for model in now.served:
            labels = (model.name, model.version, model.endpoint)
            for each in CIRCUIT_STATES:
                state.add_metric((*labels, each), float(each == model.circuit))
            opened.add_metric(labels, model.opened)
            stuck.add_metric(labels, model.stuck)
        yield from (state, opened, stuck)
    if now.blocked_slots:
        blocked: dict[tuple[str, ...], float] = {(name,): count for name, count in now.blocked_slots.items()}
        yield _gauge("edged_triton_blocked_slots", "Slots of unanswered requests that Triton may still read.", blocked, ("endpoint",))


def _gauge(name: str, text: str, values: Mapping[tuple[str, ...], float], labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _gpu_metrics(gpus: tuple[GpuFacts, ...]) -> Iterable[Metric]:
    """A figure that a GPU does not give is left out for that GPU."""
    columns: list[tuple[str, str, dict[tuple[str, ...], float | None]]] = [
        ("utilization_ratio", "Busy share of the last sample period, 0..1.", {(str(g.index),): g.utilization_ratio for g in gpus}),
        ("memory_used_bytes", "GPU memory in use.", {(str(g.index),): g.memory_used_bytes for g in gpus}),
        ("temperature_celsius", "GPU temperature.", {(str(g.index),): g.temperature_celsius for g in gpus}),
        ("power_watts", "Power drawn.", {(str(g.index),): g.power_watts for g in gpus}),
    ]
    for name, text, values in columns:
        if known := {key: value for key, value in values.items() if value is not None}:
            yield _gauge(f"edged_gpu_{name}", text, known, ("gpu",))
