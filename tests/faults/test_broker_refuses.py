"""A broker that will not have us, or that we do not trust: each cause is one sentence of its own, asked rarely, and nothing is lost.

The real ledger, the real publisher, the real Mosquitto; certificates by openssl, their dates by faketime.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import HeardBoard, opened
from contract.scripted_broker import scripted
from contract.test_publisher import plant_runs, until
from contract.test_publisher_ledger import config, recorded
from edged.backoff import Backoff
from edged.nouns import HealthStatus
from faults.test_broker_away import pulse
from faults.test_broker_line import beating
from faults.test_broker_promises import confirmed, mes_of, told
from rigs.daemon import Daemon
from rigs.delivery import delivery
from rigs.faults import Fault
from rigs.mosquitto import Broker
from rigs.processes import free_port, wait_until
from rigs.proxy import Proxy
from rigs.station import wafer_map
from rigs.tally import rows

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""paho leaves the socket of a failed TLS handshake to the garbage collector."""

REFUSED_S = 3.0
WATCHED_S = 7.0


def certificate(folder: Path, name: str, *, issuer: str | None, at: str = "", san: str = "IP:127.0.0.1") -> None:
    """`{name}.crt` and `{name}.key`, valid for two days from `at`, signed by `issuer` or by itself."""
    when = [shutil.which("faketime") or pytest.skip("faketime is not on this machine"), at] if at else []
    key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={san}"]

    def openssl(*arguments: str) -> None:
        subprocess.run([*when, "openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)

    if issuer is None:
        openssl(*key, "-x509", "-out", f"{name}.crt", *subject, "-days", "2")
        return
    openssl(*key, "-out", f"{name}.csr", *subject)
    signing = ("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-copy_extensions", "copy")
    openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.crt", "-days", "2")


CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"issuer": "ca", "at": "2020-01-01"}, "expired"),
    "not yet valid": ({"issuer": "ca", "at": "2040-01-01"}, "not yet valid"),
    "self-signed": ({"issuer": None}, "self-signed"),
    "of another authority": ({"issuer": "other"}, "unable to get local issuer"),
    "for another host": ({"issuer": "ca", "san": "DNS:broker.fab9.example"}, "127.0.0.1"),
}


@pytest.mark.fault("broker's certificate is wrong", matrix=(26,))
async def test_each_fault_of_a_certificate_is_a_sentence_of_its_own_and_verdicts_wait_for_a_good_one(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault
) -> None:
    for name in ("ca", "other"):
        certificate(tmp_path, name, issuer=None)
    certificate(tmp_path, "good", issuer="ca")
    said: dict[str, tuple[str, str]] = {}
    found = []
    for number, (what, (options, words)) in enumerate(CERTIFICATES.items()):
        certificate(tmp_path, f"c{number}", **options)
        tls = f"cafile {tmp_path}/ca.crt\ncertfile {tmp_path}/used{number}.crt\nkeyfile {tmp_path}/used{number}.key"
        _use(tmp_path, f"c{number}", f"used{number}")
        side = free_port()
        broker = start_broker(extra=f"{tls}\nlistener {side} 127.0.0.1")
        board, state = HeardBoard(), tmp_path / f"state{number}"
        state.mkdir()
        mqtt = config(broker.port, ca=str(tmp_path / "ca.crt"))
        async with opened(state) as ledger, mes_of(broker, port=side) as mes:
            await recorded(ledger, range(10))
            async with plant_runs(mqtt, ledger.outbox, board, refused_s=1.0):
                await until(lambda: "broker" in board.last)  # noqa: B023
                status, cause, hint = board.last["broker"]
                assert (
                    status is HealthStatus.DOWN and f"127.0.0.1:{broker.port}: its certificate is not accepted" in cause and words in cause
                )
                said[what] = cause.partition(": ")[2], hint
                _use(tmp_path, "good", f"used{number}")
                await asyncio.to_thread(broker.restart)
                await confirmed(ledger, 10)
                await until(lambda: told(state, mes).lost == 0)  # noqa: B023
                found.append(told(state, mes))
    assert len({cause for cause, _ in said.values()}) == len(CERTIFICATES), said
    assert "renewed" in said["expired"][1] and "clock" in said["not yet valid"][1] and "authority" in said["self-signed"][1]
    assert "[mqtt] host" in said["for another host"][1]
    row = {
        "images": sum(each.rows for each in found),
        "lost": sum(each.lost for each in found),
        "doubled": sum(e.two_bodies for e in found),
    }
    fault.row(", ".join(CERTIFICATES), **row)


def _use(folder: Path, certificate_: str, as_: str) -> None:
    for kind in ("crt", "key"):
        shutil.copy(folder / f"{certificate_}.{kind}", folder / f"{as_}.{kind}")


@pytest.mark.fault("broker refuses the connection", matrix=(26,))
async def test_a_broker_that_refuses_is_asked_rarely_and_gets_every_verdict_once_it_is_corrected(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault
) -> None:
    """A wrong password: asked once in `refused_s` (30 s as shipped, less here). One that closes every connection at once, as Mosquitto does
    above its `max_connections` (2.0.11 miscounts them, so it cannot be held there): as often as one that is away."""
    (tmp_path / "password").write_text("wrong\n")
    credentials = {"username": "edged", "password_file": str(tmp_path / "password")}
    locked = start_broker(users={"edged": "right", "mes": "m"})
    full = start_broker()
    causes, found = [], []
    async with AsyncExitStack() as stack:
        running = []
        for name, broker, options in (("locked", locked, credentials), ("full", full, {})):
            (tmp_path / name).mkdir()
            line, board = stack.enter_context(Proxy(broker.port)), HeardBoard()
            line.down = broker is full
            ledger = await stack.enter_async_context(opened(tmp_path / name))
            await recorded(ledger, range(20))
            mqtt = config(line.port, no_subscriber="accept", **options)
            await stack.enter_async_context(plant_runs(mqtt, ledger.outbox, board, backoff=Backoff(1.0, 30.0), refused_s=REFUSED_S))
            running.append((line, board, ledger))
        await asyncio.sleep(WATCHED_S)
        tries = [line.connections for line, _, _ in running]
        causes = [board.last["broker"][1] for _, board, _ in running]
        assert all(board.last["broker"][0] is HealthStatus.DOWN for _, board, _ in running)
        (tmp_path / "password").write_text("right\n")
        running[1][0].down = False
        began = time.monotonic()
        for _, board, ledger in running:
            await confirmed(ledger, 20, 60)
            await until(lambda: board.last["broker"][0] is HealthStatus.OK)  # noqa: B023
            found.append(delivery(ledger._path, []))
        recovered_s = time.monotonic() - began
    assert "does not authorise us" in causes[0] or "user name or password" in causes[0]
    assert causes[1].partition(": ")[2] not in causes[0]
    ok = 1 <= tries[0] <= WATCHED_S / REFUSED_S + 1 and tries[1] <= 6
    note = f"{tries[0]} and {tries[1]} tries in {WATCHED_S:g} s; no MES listens: lost is what the broker has not taken"
    row = {"images": sum(e.rows for e in found), "lost": sum(e.open for e in found), "doubled": 0, "recovered_s": round(recovered_s, 1)}
    fault.row("wrong password; every connection closed at once", ok=ok, note=note, **row)


@pytest.mark.fault("broker over quota (0x97)", matrix=(26,))
async def test_a_broker_over_its_quota_is_given_time_and_gets_every_row(tmp_path: Path, fault: Fault) -> None:
    """Mosquitto never says so: this broker is scripted."""
    enough = time.monotonic() + 3
    answers = list[str]()
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(300))
        quota = lambda topic, _body: 0x97 if "/result/" in topic and time.monotonic() < enough else 0x00  # noqa: E731
        async with scripted(quota, receive_maximum=20) as broker:
            async with plant_runs(config(broker.port), ledger.outbox, published=answers.append):
                await confirmed(ledger, 300, 60)
            got = {(json.loads(body)["id"], body) for topic, body in broker.got if "/result/" in topic}
    refused = answers.count("0x97")
    ids = {id_ for id_, _ in got}
    row: dict[str, Any] = {"images": 300, "lost": 300 - len(ids), "doubled": len(got) - len(ids)}
    fault.row("0x97 for 3 s", ok=0 < refused <= 60 and answers.count("0x00") >= 300, note=f"{refused} refusals", **row)


@pytest.mark.fault("TLS to a frozen broker", matrix=(23,))
async def test_the_loop_goes_on_while_tls_is_dialled_to_a_frozen_broker(
    start_broker: Callable[..., Broker], tmp_path: Path, fault: Fault
) -> None:
    certificate(tmp_path, "ca", issuer=None)
    certificate(tmp_path, "good", issuer="ca")
    side = free_port()
    tls = f"cafile {tmp_path}/ca.crt\ncertfile {tmp_path}/good.crt\nkeyfile {tmp_path}/good.key\nlistener {side} 127.0.0.1"
    broker, board = start_broker(extra=tls), HeardBoard()
    stood: list[float] = []
    async with opened(tmp_path) as ledger, mes_of(broker, port=side) as mes:
        await recorded(ledger, range(50))
        broker.freeze()
        async with beating() as idle:
            await asyncio.sleep(3)
        async with plant_runs(config(broker.port, ca=str(tmp_path / "ca.crt")), ledger.outbox, board):
            for _ in range(3):  # a neighbour of this machine may make one look bad, not every one
                async with beating() as longest:
                    await asyncio.sleep(4)
                stood.append(longest[0])
                if longest[0] < max(0.1, 2 * idle[0]):
                    break
            await until(lambda: "broker" in board.last, 20)
            assert board.last["broker"][0] is HealthStatus.DOWN
            broker.thaw()
            began = time.monotonic()
            await confirmed(ledger, 50, 40)
            recovered_s = time.monotonic() - began
        await until(lambda: told(tmp_path, mes).lost == 0)
        found = told(tmp_path, mes)
    row = {"images": found.rows, "lost": found.lost, "doubled": found.two_bodies, "recovered_s": round(recovered_s, 1)}
    note = f"the loop stood {min(stood) * 1000:.0f} ms at most, {idle[0] * 1000:.0f} ms before"
    fault.row("SIGSTOP before the handshake", ok=min(stood) < max(0.1, 2 * idle[0]), note=note, **row)


@contextmanager
def silent_name_server(folder: Path) -> Iterator[list[str]]:
    """What to put before a command, so that it asks a name server that never answers."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not on this machine")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:20 attempts:2\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        try:
            server.bind(("127.0.0.53", 53))
        except OSError as error:
            pytest.skip(f"port 53 cannot be taken: {error}")
        bind = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        yield ["unshare", "-m", "sh", "-c", bind, str(folder / "resolv.conf")]


@pytest.mark.long
@pytest.mark.fault("slow name server", matrix=(23,))
def test_a_name_server_that_never_answers_holds_up_neither_the_door_nor_the_end(
    start_daemon: Callable[..., Daemon], tmp_path: Path, fault: Fault
) -> None:
    (tmp_path / "drop").mkdir()
    waiting = tmp_path / "drop" / "waiting.png"
    waiting.write_bytes(wafer_map(1))
    toml = f"""
[triton]
endpoints = ["127.0.0.1:{free_port()}"]
[mqtt]
host = "broker.fab2.example"
[[recipe]]
name = "maps"
models = ["wafer_pattern"]
[[camera]]
name = "cam1"
folder = "{tmp_path / "drop"}"
recipe = "maps"
"""
    daemon = start_daemon(toml, run=False)
    with silent_name_server(tmp_path) as behind:
        daemon.start(ready=False, prefix=behind)
        with pulse(daemon.url) as felt:

            def broker() -> dict[str, Any]:
                checks = (daemon.get("/readyz", 503) or {"checks": []})["checks"]
                return next((item for item in checks if item["name"] == "broker"), {})

            wait_until(lambda: broker().get("status") == "down", 20, "health says that the broker cannot be reached")
            assert "no connection within 10 s" in broker()["cause"] and "name server" in broker()["hint"]
            wait_until(lambda: "still hangs" in broker()["cause"], 20, "health says that the lookup hangs")
            threads = len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
        began = time.monotonic()
        assert daemon.stop() == 0
        ended_s = time.monotonic() - began
    note = f"the door answered within {felt.worst_s * 1000:.0f} ms, {threads} threads, ended in {ended_s:.1f} s"
    note += "; the image waits: no Triton either"
    lost = int(not waiting.exists())
    fault.row(
        "UDP 53 takes and never answers",
        images=1,
        lost=lost,
        doubled=len(rows(daemon.state / "ledger.db")),
        ok=felt.worst_s < 1 and ended_s < 10,
        note=note,
    )
