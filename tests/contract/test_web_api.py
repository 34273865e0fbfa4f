"""The reading API, the model actions and the probes, over a real socket."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from contract.web_station import FakeStation, a_row, ask, assert_problem, bearing, opened
from edged.config import Http
from edged.errors import Unavailable
from edged.nouns import HealthStatus, VerdictKind
from edged.web.app import application, routes
from edged.web.auth import Role, Tokens

TOKEN = "operator-token-0123456789"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"operator shift-2 {TOKEN}\n")
    return path


async def test_the_status_holds_cameras_backlog_health_and_gpu() -> None:
    async with opened(FakeStation()) as url:
        status, body, headers = await ask(url + "api/v1/status")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert [camera["name"] for camera in body["cameras"]] == ["cam1", "cam2"]
    assert body["station"]["started"].endswith("Z")
    assert body["health"]["overall"]["status"] == "ok"
    assert {item["name"] for item in body["health"]["items"]} >= {"triton", "broker", "ledger", "disk", "folder:cam1"}
    assert body["gpu"]["reason"] == "no GPU: the NVIDIA kernel driver is not loaded"
    assert body["latency"]["total"]["p95_ms"] == 310.5


@pytest.mark.parametrize(
    ("path", "key"),
    [("cameras", "cameras"), ("models", "models"), ("gpu", "reason"), ("version", "edged"), ("config", "mqtt"), ("results", "results")],
)
async def test_every_reading_address_answers_json(path: str, key: str) -> None:
    async with opened(FakeStation()) as url:
        status, body, _ = await ask(f"{url}api/v1/{path}")
    assert status == 200
    assert key in body


async def test_head_asks_for_the_headers_alone() -> None:
    async with opened(FakeStation()) as url:
        status, body, headers = await ask(url + "livez", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "3")


async def test_results_are_filtered_and_paged_by_cursor() -> None:
    station = FakeStation()
    async with opened(station) as url:
        query = "api/v1/results?camera=cam1&verdict=fail&lot=L2411A&wafer=L2411A-07&limit=7"
        status, first, _ = await ask(url + query)
        _, second, _ = await ask(f"{url}{query}&after={first['next']}")
    assert (status, len(first["results"]), first["next"], second["next"]) == (200, 7, "c2", None)
    asked = {"camera": "cam1", "verdict": VerdictKind.FAIL, "lot": "L2411A", "wafer": "L2411A-07", "limit": 7}
    assert station.asked == [("results", {**asked, "after": None}), ("results", {**asked, "after": "c2"})]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("results?limit=0", ["limit"]),
        ("results?limit=many&verdict=bad", ["verdict", "limit"]),
        ("results?colour=red", ["colour"]),
        ("trace", ["name"]),
        ("trace?name=", ["name"]),
        ("status?deep=1", ["deep"]),
    ],
)
async def test_wrong_query_parameters_are_all_named(query: str, wrong: list[str]) -> None:
    async with opened(FakeStation()) as url:
        status, body, _ = await ask(f"{url}api/v1/{query}")
    assert_problem(body, 400)
    assert (status, [error["parameter"] for error in body["errors"]]) == (400, wrong)


async def test_a_cursor_of_another_station_is_a_problem() -> None:
    async with opened(FakeStation()) as url:
        status, body, _ = await ask(url + "api/v1/results?after=zzz")
    assert_problem(body, 400)
    assert status == 400


async def test_one_result_is_its_message_and_an_unknown_one_is_a_problem() -> None:
    async with opened(FakeStation()) as url:
        assert (await ask(f"{url}api/v1/results/{a_row(0)['id']}"))[1]["data"] == {"verdict": "PASS"}
        for unknown in ("00000000-0000-8000-8000-000000000000", "..%2f..%2fetc%2fpasswd", "a" * 100):
            status, body, _ = await ask(f"{url}api/v1/results/{unknown}")
            assert status == 404
            assert_problem(body, 404)


async def test_a_trace_takes_any_file_name() -> None:
    station = FakeStation()
    async with opened(station) as url:
        _, body, _ = await ask(url + "api/v1/trace", params={"name": 'a "b"\n<c>.png'})
    assert body["name"] == 'a "b"\n<c>.png'


async def test_a_trace_takes_a_lot_in_place_of_a_name_but_not_both() -> None:
    station = FakeStation()
    async with opened(station) as url:
        _, body, _ = await ask(url + "api/v1/trace?lot=L2411A")
        status, problem, _ = await ask(url + "api/v1/trace?lot=L2411A&name=a.png")
    assert (body["lot"], station.asked[-1]) == ("L2411A", ("lot", "L2411A"))
    assert status == 400
    assert_problem(problem, 400)


async def test_numbers_that_json_does_not_know_are_null() -> None:
    station = FakeStation()
    station.gpu_ = {"gpus": [{"power_watts": math.nan, "temperature_celsius": math.inf}], "reason": None, "driver": None}
    async with opened(station) as url:
        assert (await ask(url + "api/v1/gpu"))[1]["gpus"] == [{"power_watts": None, "temperature_celsius": None}]


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_a_model_is_loaded_and_unloaded_with_a_token(verb: str, tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        status, body, _ = await ask(f"{url}api/v1/models/die_defect/{verb}", "POST", headers=bearing(TOKEN))
    assert (status, body["name"], station.asked) == (200, "die_defect", [(verb, "die_defect")])


@pytest.mark.parametrize(("name", "status"), [("other", 404), ("..%2f..%2fetc", 400), ("Die", 400), ("a" * 65, 400), ("%00", 400)])
async def test_a_name_that_is_no_model_reaches_nothing(name: str, status: int, tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        got, body, _ = await ask(f"{url}api/v1/models/{name}/load", "POST", headers=bearing(TOKEN))
    assert_problem(body, status)
    assert (got, station.asked) == (status, [])


async def test_the_process_is_alive_while_its_pipeline_advances() -> None:
    station = FakeStation()
    async with opened(station) as url:
        assert (await ask(url + "livez"))[:2] == (200, "ok\n")
        station.beat_s = 42.0
        assert (await ask(url + "livez"))[:2] == (503, "stalled: the pipeline has not advanced for 42 s\n")


@pytest.mark.parametrize("path", ["readyz", "healthz"])
async def test_a_station_without_a_broker_is_degraded_but_ready(path: str) -> None:
    station = FakeStation()
    station.board.report("broker", HealthStatus.DOWN, "The broker refuses the password.", "Correct it.")
    async with opened(station) as url:
        status, text, _ = await ask(url + path)
    assert status == 200
    lines = text.splitlines()
    assert lines[0] == "ready: degraded: The broker refuses the password."
    assert lines[1].startswith("[-] broker down since 20")
    assert lines[1].endswith("Z: The broker refuses the password. Correct it.")


async def test_a_station_without_triton_is_not_ready_and_every_failing_check_says_cause_time_and_remedy() -> None:
    station = FakeStation()
    station.board.report("triton", HealthStatus.DOWN, "Triton does not\nanswer.", "Restart it.")
    async with opened(station) as url:
        status, text, _ = await ask(url + "readyz?verbose")
        as_json_status, body, _ = await ask(url + "readyz", headers={"Accept": "application/json"})
    assert (status, as_json_status) == (503, 503)
    (down,) = [line for line in text.splitlines() if line.startswith("[-] triton down since ")]
    assert down.endswith("Triton does not answer. Restart it.")
    assert sum(line.startswith("[+]") for line in text.splitlines()) >= 5, "verbose lists what works too"
    (triton,) = [check for check in body["checks"] if check["name"] == "triton"]
    assert (body["ready"], triton["status"], triton["hint"], triton["since"][-1]) == (False, "down", "Restart it.", "Z")


async def test_metrics_are_prometheus_text_or_openmetrics_as_asked() -> None:
    station = FakeStation()
    station.metrics_.verdict(VerdictKind.FAIL)
    async with opened(station) as url:
        status, text, headers = await ask(url + "metrics")
        _, modern, modern_headers = await ask(url + "metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'edged_verdicts_total{verdict="FAIL"} 1.0' in text
    assert modern_headers["Content-Type"].startswith("application/openmetrics-text")
    assert "edged_verdicts" in {family.name for family in text_string_to_metric_families(modern)}


async def test_a_ledger_that_is_away_is_told_with_retry_after() -> None:
    station = FakeStation()
    station.raises = Unavailable("ledger", "the disk is full", "Free space.")
    async with opened(station) as url:
        status, body, headers = await ask(url + "api/v1/results")
    assert_problem(body, 503)
    assert (status, headers["Retry-After"], body["detail"]) == (503, "5", "ledger is unavailable: the disk is full.")


def test_every_write_in_the_route_table_needs_a_role_that_may_write() -> None:
    table = routes(FakeStation())
    assert {route.name for route in table if route.writes} == {
        *("load_model", "unload_model"),
        *("pause_camera", "resume_camera"),
        *("rejudge", "republish", "retry_parked", "release"),
    }
    assert all(route.role is not None and route.role >= Role.OPERATOR for route in table if route.writes)
    assert [route.path for route in table if route.role is None] == ["/livez"]


async def test_the_server_serves_exactly_the_route_table() -> None:
    station: Any = FakeStation()
    app = application(Http(), station, Tokens(None))
    served = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource and route.method != "HEAD"}
    assert served == {(route.method, route.path) for route in routes(station)}


async def test_an_operator_pauses_and_resumes_a_camera_and_the_audit_says_who(tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        refused, body, _ = await ask(url + "api/v1/cameras/cam1/pause", "POST")
        assert (refused, station.paused) == (401, {})
        status, body, _ = await ask(url + "api/v1/cameras/cam1/pause", "POST", headers=bearing(TOKEN))
        assert (status, body["held"]) == (200, "paused by shift-2")
        status, body, _ = await ask(url + "api/v1/cameras/cam1/resume", "POST", headers=bearing(TOKEN))
        assert (status, body["held"]) == (200, None)
        status, body, _ = await ask(url + "api/v1/cameras/cam9/pause", "POST", headers=bearing(TOKEN))
        assert status == 404
        assert_problem(body, 404)
    changes = [(c.who, c.what, c.target, c.before, c.after) for c in station.actions.changes]
    paused = {"paused": "paused by shift-2"}
    assert changes == [
        ("shift-2", "cameras.pause", "cam1", {"paused": None}, paused),
        ("shift-2", "cameras.resume", "cam1", paused, {"paused": None}),
    ]
