"""Metrics carry the contract's names and parse as what they claim to be."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from edged.nouns import VerdictKind
from edged.vitals.gpu import GpuFacts
from edged.vitals.latency import LatencyWindow
from edged.vitals.metrics import Gauges, Metrics, ModelGauges

FULL = Gauges(
    queues={"settled": 3},
    outbox_rows={"undelivered": 7, "parked": 1},
    outbox_oldest_s=12.5,
    db_bytes=4096,
    disk_free_bytes=10**12,
    last_file_s={"cam1": 1764000000.25},
    watch_overflows=2,
    triton_up=True,
    served=(ModelGauges("die_defect", "3", "local", "open", 2, 1),),
    blocked_slots={"local": 4},
    models=(("die_defect", "3"),),
    gpus=(
        GpuFacts(0, "L4", utilization_ratio=0.5, memory_used_bytes=10, memory_total_bytes=20, temperature_celsius=50.0),
        GpuFacts(1, "L4"),
    ),
)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    body, _ = metrics.exposition()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_prometheus(body.decode())
        for sample in family.samples
    }


def a_fed_metrics() -> Metrics:
    metrics = Metrics("1.2.3", lambda: FULL)
    metrics.image_done("cam1", "recorded")
    metrics.verdict(VerdictKind.FAIL)
    metrics.stage("infer", 0.004)
    metrics.publish("0x00")
    return metrics


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("edged_images_total", {"camera": "cam1", "outcome": "recorded"}, 1),
        ("edged_verdicts_total", {"verdict": "FAIL"}, 1),
        ("edged_verdicts_total", {"verdict": "PASS"}, 0),
        ("edged_stage_seconds_bucket", {"stage": "infer", "le": "0.005"}, 1),
        ("edged_stage_seconds_bucket", {"stage": "infer", "le": "0.002"}, 0),
        ("edged_publish_total", {"reason": "0x00"}, 1),
        ("edged_queue_depth", {"queue": "settled"}, 3),
        ("edged_outbox_rows", {"state": "parked"}, 1),
        ("edged_outbox_oldest_seconds", {}, 12.5),
        ("edged_db_bytes", {}, 4096),
        ("edged_disk_free_bytes", {}, 10**12),
        ("edged_folder_last_file_timestamp_seconds", {"camera": "cam1"}, 1764000000.25),
        ("edged_watch_overflow_total", {}, 2),
        ("edged_triton_up", {}, 1),
        ("edged_model_info", {"name": "die_defect", "version": "3"}, 1),
        ("edged_triton_circuit_state", {"model": "die_defect", "version": "3", "endpoint": "local", "state": "open"}, 1),
        ("edged_triton_circuit_state", {"model": "die_defect", "version": "3", "endpoint": "local", "state": "closed"}, 0),
        ("edged_triton_circuit_opened_total", {"model": "die_defect", "version": "3", "endpoint": "local"}, 2),
        ("edged_triton_stuck_requests", {"model": "die_defect", "version": "3", "endpoint": "local"}, 1),
        ("edged_triton_blocked_slots", {"endpoint": "local"}, 4),
        ("edged_gpu_utilization_ratio", {"gpu": "0"}, 0.5),
        ("edged_gpu_memory_used_bytes", {"gpu": "0"}, 10),
        ("edged_gpu_temperature_celsius", {"gpu": "0"}, 50),
    ],
)
def test_the_contracts_metrics_are_there(name: str, labels: dict[str, str], value: float) -> None:
    assert samples(a_fed_metrics())[name, frozenset(labels.items())] == value


def test_the_version_is_a_label_of_build_info() -> None:
    assert any(name == "edged_build_info" and ("version", "1.2.3") in labels for name, labels in samples(Metrics("1.2.3")))


def test_what_is_not_known_is_absent_rather_than_zero() -> None:
    names = {name for name, _ in samples(Metrics("1", Gauges))}
    assert not names & {"edged_triton_up", "edged_disk_free_bytes", "edged_outbox_oldest_seconds", "edged_gpu_power_watts"}
    full = samples(a_fed_metrics())
    assert not [1 for name, labels in full if name == "edged_gpu_power_watts"], "no GPU of these gives its power"
    assert not [1 for name, labels in full if ("gpu", "1") in labels], "the second GPU gives no figure at all"


def test_openmetrics_is_given_to_those_who_ask_for_it() -> None:
    body, content_type = a_fed_metrics().exposition("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name for family in parse_openmetrics(body.decode())}
    assert {"edged_images", "edged_stage_seconds", "edged_watch_overflow"} <= families


def test_two_stations_in_one_process_do_not_share_counters() -> None:
    first, second = Metrics("1"), Metrics("1")
    first.verdict(VerdictKind.PASS)
    assert samples(second)["edged_verdicts_total", frozenset({("verdict", "PASS")})] == 0


def test_verdicts_since_the_start_can_be_read_back_and_no_other_kind_slips_in() -> None:
    metrics = Metrics("1")
    for kind in ("FAIL", VerdictKind.FAIL, VerdictKind.PASS):
        metrics.verdict(kind)
    with pytest.raises(ValueError, match="SCRAPPED"):
        metrics.verdict("SCRAPPED")
    assert metrics.verdicts() == {"PASS": 1, "FAIL": 2, "REVIEW": 0, "ERROR": 0}
    assert samples(metrics)["edged_verdicts_total", frozenset({("verdict", "FAIL")})] == 2


def test_quantiles_are_exact_over_the_newest_samples() -> None:
    window = LatencyWindow(keep=100)
    for milliseconds in [10_000] * 50 + list(range(1, 101)):
        window.add("total", milliseconds / 1000)
    assert window.summary() == {"total": {"count": 100, "p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 100.0}}


def test_one_sample_is_every_quantile() -> None:
    window = LatencyWindow()
    window.add("infer", 0.0042)
    assert window.summary()["infer"] == {"count": 1, "p50_ms": 4.2, "p95_ms": 4.2, "p99_ms": 4.2, "max_ms": 4.2}
