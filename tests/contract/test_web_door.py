"""The listening socket: slow, silent and too many clients, TLS, a port in use."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from contract.web_station import FakeStation, ask, assert_problem, bearing, opened, say
from edged.config import Http
from edged.errors import ConfigError
from edged.nouns import HealthStatus
from edged.web import Door, door, fence

VIEWER = "viewer-token-0123456789ab"
LOAD = "api/v1/models/die_defect/load"


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"viewer wall {VIEWER}\n")
    return path


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nbroken\r\n\r\n",
        b"GET /" + b"a" * 20_000,
    ],
)
async def test_what_is_not_http_is_a_problem_and_the_connection_ends(sent: bytes) -> None:
    async with opened(FakeStation()) as url:
        answer = await say(url, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert b"application/problem+json" in head
    assert_problem(json.loads(body), 400)


async def test_a_client_that_drips_its_headers_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEADER_S", 0.5)
    async with opened(FakeStation()) as url:
        host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        begun = asyncio.get_running_loop().time()
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            assert asyncio.get_running_loop().time() - begun < 5, "the drips kept the connection open"
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.1)
        writer.close()


async def test_an_idle_connection_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEADER_S", 0.3)
    async with opened(FakeStation()) as url:
        answer = await say(url, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "ANSWER_S", 0.3)
    station = FakeStation()
    station.rows[0]["reason"] = "x" * 30_000_000  # more than the kernel buffers for a reader that sleeps
    async with opened(station) as url:
        host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        with socket.create_connection((host, int(port))) as deaf:
            deaf.sendall(b"GET /api/v1/results HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(1.0)
            assert (await ask(url + "livez"))[0] == 200
            deaf.settimeout(2)
            got = 0
            with suppress(ConnectionResetError):
                while some := await asyncio.to_thread(deaf.recv, 1 << 20):
                    got += len(some)
            assert got < 30_000_000, "the whole answer waited for its reader"


async def test_one_connection_too_many_is_turned_away_and_place_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 3)
    async with opened(FakeStation()) as url:
        host, port = url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        await asyncio.sleep(0.05)
        answer = await say(url, b"")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in answer
        assert_problem(json.loads(answer.partition(b"\r\n\r\n")[2]), 503)
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await ask(url + "livez"))[0] == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=insp07", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


async def test_beyond_loopback_only_livez_answers_without_a_token(certificate: tuple[Path, Path], tokens_file: Path) -> None:
    config = {"bind": "0.0.0.0:0", "tls_cert": certificate[0], "tls_key": certificate[1], "tokens_file": tokens_file}
    async with opened(FakeStation(), **config) as bound:
        assert bound.startswith("https://")
        url = bound.replace("0.0.0.0", "127.0.0.1")
        context = trusting(certificate)
        assert (await ask(url + "livez", ssl=context))[0] == 200
        for path in ("", "readyz", "metrics", "api/v1/status", "static/page.css", "api/v1/nothing"):
            status, body, _ = await ask(url + path, ssl=context)
            assert status == 401
            assert_problem(body, 401)
        assert (await ask(url + "api/v1/status", ssl=context, headers=bearing(VIEWER)))[0] == 200
        assert (await ask(url + LOAD, "POST", ssl=context, headers=bearing(VIEWER)))[0] == 403
        assert (await ask(url + "livez", ssl=context, headers={"Host": "evil.example"}))[0] == 421


async def test_plain_http_gets_nothing_from_a_tls_door(certificate: tuple[Path, Path], tokens_file: Path) -> None:
    async with opened(FakeStation(), tls_cert=certificate[0], tls_key=certificate[1]) as url:
        answer = await say(url.replace("https", "http"), b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" not in answer


async def test_a_certificate_that_cannot_be_used_is_a_configuration_problem(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    for cert, key in ((tmp_path / "missing.pem", certificate[1]), (certificate[1], certificate[0])):
        with pytest.raises(ConfigError, match=r"http\.tls_cert: the certificate and its key cannot be used"):
            Door(Http(tls_cert=cert, tls_key=key), FakeStation(), FakeStation().board)


async def test_a_port_in_use_is_told_in_health_and_taken_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "RETRY_BIND_S", 0.1)
    station, stop = FakeStation(), asyncio.Event()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        it = Door(Http(bind=f"127.0.0.1:{port}"), station, station.board)
        running = asyncio.create_task(it.run(stop))
        await until(lambda: station.overall().facts["item"] == "http")
    assert station.overall().status is HealthStatus.DEGRADED
    assert station.overall().cause == f"The address 127.0.0.1:{port} cannot be bound: {os.strerror(98)}."
    await asyncio.wait_for(it.opened.wait(), 5)
    assert (await ask(f"http://127.0.0.1:{port}/livez"))[0] == 200
    assert station.overall().status is HealthStatus.OK
    stop.set()
    await running


async def until(true: Callable[[], bool], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_door_that_never_found_its_port_ends_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    station, stop = FakeStation(), asyncio.Event()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        running: Awaitable[None] = asyncio.create_task(
            Door(Http(bind=f"127.0.0.1:{other.getsockname()[1]}"), station, station.board).run(stop)
        )
        await until(lambda: station.overall().facts["item"] == "http")
        stop.set()
        await asyncio.wait_for(running, 2)
