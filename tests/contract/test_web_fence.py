"""What a request must be to reach a handler: its name, origin, token, size and form."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.web_station import FakeStation, ask, assert_problem, bearing, opened, say
from edged.config import Http
from edged.errors import ConfigError, ModelMismatch, Unavailable
from edged.web import Door, door, fence, pace

ENGINEER, OPERATOR, VIEWER = ("engineer-token-0123456789", "operator-token-0123456789", "viewer-token-0123456789ab")
LOAD = "api/v1/models/die_defect/load"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    hashed = hashlib.sha256(OPERATOR.encode()).hexdigest()
    path.write_text(f"# who may do what\nengineer a.meier {ENGINEER}\noperator shift-2 sha256:{hashed}\nviewer wall {VIEWER}\n")
    return path


@pytest.mark.parametrize("path", ["", "livez", "readyz", "metrics", "api/v1/status", "static/page.css", "nothing/here"])
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with opened(FakeStation()) as url:
        _, _, headers = await ask(url + path)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Server"] == "edged"


async def test_a_client_that_asks_for_changes_too_often_is_told_when_to_come_back_and_may_still_read(tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        answers = [await ask(url + LOAD, "POST", headers=bearing(f"a-guessed-token-{number:04}")) for number in range(2 * pace.BURST)]
        status, body, headers = answers[-1]
        assert {status for status, _, _ in answers[: pace.BURST]} == {401}
        assert_problem(body, status)
        assert (status, headers["Retry-After"]) == (429, "1")
        assert (await ask(url + "api/v1/status"))[0] == 200
        assert (await ask(url + LOAD, "POST", headers=bearing(OPERATOR)))[0] == 429
        await asyncio.sleep(1)
        assert (await ask(url + LOAD, "POST", headers=bearing(OPERATOR)))[0] == 200


async def test_an_address_that_does_not_exist_is_a_problem() -> None:
    async with opened(FakeStation()) as url:
        status, body, headers = await ask(url + "api/v2/nothing")
    assert_problem(body, status)
    assert (status, body["instance"], headers["Content-Type"]) == (404, "/api/v2/nothing", "application/problem+json")


async def test_a_method_that_an_address_does_not_know_is_a_problem_that_names_the_others() -> None:
    async with opened(FakeStation()) as url:
        status, body, headers = await ask(url + "api/v1/status", "DELETE")
    assert_problem(body, status)
    assert (status, headers["Allow"]) == (405, "GET,HEAD")


async def test_a_bug_answers_a_problem_without_a_trace_and_is_logged_once() -> None:
    station = FakeStation()
    station.raises = RuntimeError("secret detail")
    with capture_logs() as logs:
        async with opened(station) as url:
            status, body, headers = await ask(url + "api/v1/results")
    assert_problem(body, 500)
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["http.bug"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9180", "127.0.0.1.evil.example", "", "10.1.2.3"])
async def test_a_foreign_host_name_is_misdirected(host: str) -> None:
    async with opened(FakeStation()) as url:
        status, body, _ = await ask(url + "api/v1/status", headers={"Host": host})
    assert status == 421
    assert_problem(body, 421)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9180", "127.0.0.1:1", "[::1]:9180"])
async def test_the_names_of_loopback_are_the_stations(host: str) -> None:
    async with opened(FakeStation()) as url:
        assert (await ask(url + "livez", headers={"Host": host}))[0] == 200


async def test_the_public_address_is_one_of_the_stations_names() -> None:
    async with opened(FakeStation(), public_url="https://insp07.fab2.example") as url:
        assert (await ask(url + "livez", headers={"Host": "insp07.fab2.example"}))[0] == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_a_write_from_a_foreign_page_is_refused_whatever_token_it_bears(headers: dict[str, str], tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        status, body, _ = await ask(url + LOAD, "POST", headers={**headers, **bearing(ENGINEER)})
    assert_problem(body, 403)
    assert (status, station.asked) == (403, [])


async def test_a_write_from_the_stations_own_page_is_taken(tokens_file: Path) -> None:
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        own = {"Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin", **bearing(ENGINEER)}
        assert (await ask(url + LOAD, "POST", headers=own))[0] == 200


async def test_without_a_tokens_file_nothing_can_be_changed_and_the_answer_says_how_to_configure_it() -> None:
    station = FakeStation()
    async with opened(station) as url:
        status, body, _ = await ask(url + LOAD, "POST", headers=bearing(ENGINEER))
    assert_problem(body, 403)
    assert (status, station.asked) == (403, [])
    assert "tokens_file" in body["hint"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearing("wrong-token-0123456789"), 401),
        (bearing(hashlib.sha256(OPERATOR.encode()).hexdigest()), 401),
        ({"Authorization": f"Basic {ENGINEER}"}, 401),
        (bearing("\udcff\udcfe"), 401),
        (bearing(VIEWER), 403),
        (bearing(OPERATOR), 200),
        (bearing(ENGINEER), 200),
    ],
)
async def test_only_the_roles_that_may_change_the_station(headers: dict[str, str], status: int, tokens_file: Path) -> None:
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        sent = b"".join(f"{name}: {value}\r\n".encode("utf-8", "surrogateescape") for name, value in headers.items())
        answer = await say(url, b"POST /" + LOAD.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + sent + b"\r\n")
    assert int(answer.split()[1]) == status
    assert (b"WWW-Authenticate: Bearer" in answer) == (status == 401)


async def test_a_token_taken_out_of_the_file_ends_at_once_and_a_new_one_begins(tokens_file: Path) -> None:
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        assert (await ask(url + LOAD, "POST", headers=bearing(ENGINEER)))[0] == 200
        tokens_file.write_text("engineer b.meier another-token-0123456789\n")
        assert (await ask(url + LOAD, "POST", headers=bearing(ENGINEER)))[0] == 401
        assert (await ask(url + LOAD, "POST", headers=bearing("another-token-0123456789")))[0] == 200


async def test_a_tokens_file_that_vanished_admits_nobody_and_is_told_once(tokens_file: Path) -> None:
    with capture_logs() as logs:
        async with opened(FakeStation(), tokens_file=tokens_file) as url:
            tokens_file.unlink()
            for _ in range(3):
                assert (await ask(url + LOAD, "POST", headers=bearing(ENGINEER)))[0] == 401
    assert [log["event"] for log in logs].count("tokens.problem") == 1


async def test_a_wrong_line_in_the_tokens_file_stops_the_start_and_is_named_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("chief a.meier secret-secret-secret\nviewer wall short-secret\nviewer wall\nviewer w sha256:12\n")
    with pytest.raises(ConfigError) as raised:
        Door(Http(tokens_file=path), FakeStation(), FakeStation().board)
    problems = [problem.problem for problem in raised.value.problems]
    assert [text.split(":")[0] for text in problems] == ["line 1", "line 2", "line 3", "line 4"]
    assert "secret" not in str(raised.value)


async def test_who_changed_the_station_is_logged_but_never_the_token(tokens_file: Path) -> None:
    with capture_logs() as logs:
        async with opened(FakeStation(), tokens_file=tokens_file) as url:
            await ask(url + LOAD, "POST", headers=bearing(OPERATOR))
    (entry,) = [log for log in logs if log["event"] == "model.load"]
    assert (entry["model"], entry["by"], entry["role"]) == ("die_defect", "shift-2", "operator")
    assert OPERATOR not in str(logs)


async def test_a_large_body_is_refused(tokens_file: Path) -> None:
    headers = {**bearing(ENGINEER), "Content-Type": "application/json"}
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        status, body, _ = await ask(url + LOAD, "POST", data=b" " * (fence.BODY_BYTES + 1), headers=headers)
    assert_problem(body, 413)
    assert status == 413


@pytest.mark.parametrize("headers", [{"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Encoding": "gzip"}])
async def test_a_body_that_is_not_plain_json_is_refused(headers: dict[str, str], tokens_file: Path) -> None:
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        status, body, _ = await ask(url + LOAD, "POST", data=b"a=b", headers={**headers, **bearing(ENGINEER)})
    assert_problem(body, 415)
    assert status == 415


async def test_a_body_that_does_not_arrive_in_time_is_refused(monkeypatch: pytest.MonkeyPatch, tokens_file: Path) -> None:
    monkeypatch.setattr(fence, "BODY_S", 0.2)
    monkeypatch.setattr(door, "LINGER_S", 0.1)
    head = f"POST /{LOAD} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ENGINEER}\r\nContent-Length: 100\r\n\r\n{{"
    async with opened(FakeStation(), tokens_file=tokens_file) as url:
        answer = await say(url, head.encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert_problem(json.loads(answer.partition(b"\r\n\r\n")[2]), 408)


@pytest.mark.parametrize(
    ("raised", "status"),
    [(Unavailable("ledger", "the disk is full", "Free space."), 503), (ModelMismatch("die_defect", "it has other classes"), 409)],
)
async def test_a_peer_that_is_away_is_told_with_its_hint(raised: Exception, status: int, tokens_file: Path) -> None:
    station = FakeStation()
    station.raises = raised
    async with opened(station, tokens_file=tokens_file) as url:
        got, body, headers = await ask(url + LOAD, "POST", headers=bearing(ENGINEER))
    assert_problem(body, status)
    assert got == status
    assert body["hint"]
    assert ("Retry-After" in headers) == (status == 503)
