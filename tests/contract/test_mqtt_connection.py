"""One connection to the real Mosquitto: answers, refusals, losses, and a loop that is never blocked."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edged.config.peers import Mqtt
from edged.errors import Unavailable
from edged.plant.client import Connection, ConnectionLost
from edged.plant.dialling import Dialler, Will
from edged.plant.packing import CLOUD_EVENT, packet_size, publish_properties
from rigs.mosquitto import Broker

WILL = Will("plant/state", b'{"online":false}', 0)


def dialler(port: int, *, client_id: str = "edged-tool-a", deadline_s: float = 5.0, **mqtt: Any) -> Dialler:
    return Dialler(Mqtt(port=port, **mqtt), client_id, WILL, deadline_s)


async def opened(port: int, **options: Any) -> Connection:
    return await Connection.open(dialler(port, **options), lambda _topic, _body, _retained: None)


async def refusal(port: int, **options: Any) -> Unavailable:
    with pytest.raises(Unavailable) as raised:
        await opened(port, **options)
    return raised.value


async def test_each_message_gets_the_brokers_reason_code(broker: Broker) -> None:
    broker.listen("plant/heard")
    connection = await opened(broker.port)
    assert await connection.publish("plant/heard", b"1", None) == 0x00
    assert await connection.publish("plant/unheard", b"2", None) == 0x10
    assert connection.answered
    await connection.close()
    assert connection.lost.result().cause == ""


async def test_packed_properties_arrive_as_they_were_meant(broker: Broker) -> None:
    mes = broker.listen("plant/#")
    connection = await opened(broker.port)
    user = {"lot": "L1", "what": "µm ≥ 3", "empty": ""}
    await connection.publish("plant/x", b"body", publish_properties(CLOUD_EVENT, user, expiry_s=60))
    (message,) = await asyncio.to_thread(mes.wait_for, 1)
    assert message.properties["ContentType"] == CLOUD_EVENT
    assert message.properties["PayloadFormatIndicator"] == 1
    assert 58 <= message.properties["MessageExpiryInterval"] <= 60
    assert dict(message.properties["UserProperty"]) == user
    await connection.close()


async def test_a_packet_of_the_brokers_size_passes_and_a_larger_one_costs_the_connection(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_packet_size=2000)
    connection = await opened(broker.port)
    assert connection.maximum_packet_bytes == 2000
    properties = publish_properties(CLOUD_EVENT, {"id": "x" * 200})
    body = b"x" * (2000 - packet_size("plant/x", b"", properties))
    assert packet_size("plant/x", body, properties) == 2000
    assert await connection.publish("plant/x", body, properties) == 0x10
    with pytest.raises(ConnectionLost):
        await connection.publish("plant/x", body + b"x" * 8, properties)  # Mosquitto does not count the packet's own head


async def test_a_wrong_password_is_one_clear_sentence(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker = start_broker(users={"edged": "right"})
    (tmp_path / "password").write_text("wrong\n")
    error = await refusal(broker.port, username="edged", password_file=tmp_path / "password")
    assert f"127.0.0.1:{broker.port}" in error.cause
    assert "refuses the user name or password" in error.cause or "does not authorise" in error.cause
    assert "password_file" in error.hint
    (tmp_path / "password").write_text("right\n")  # read anew at each try
    connection = await opened(broker.port, username="edged", password_file=tmp_path / "password")
    await connection.close()


async def test_a_missing_password_file_is_named(broker: Broker, tmp_path: Path) -> None:
    error = await refusal(broker.port, username="edged", password_file=tmp_path / "nothing")
    assert str(tmp_path / "nothing") in error.cause


async def test_nothing_listens_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await refusal(port)
    assert "nothing listens there" in error.cause and f"127.0.0.1:{port}" in error.cause
    assert "host and port" in error.hint


async def test_a_host_name_that_nobody_knows() -> None:
    error = await refusal(1883, host="no-such-broker.invalid")
    assert "no-such-broker.invalid" in error.cause


async def test_a_frozen_broker_blocks_neither_the_loop_nor_the_dialling_for_good(broker: Broker) -> None:
    broker.freeze()
    longest = last = 0.0

    async def tick() -> None:
        nonlocal longest, last
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    error = await refusal(broker.port, deadline_s=0.5)
    ticking.cancel()
    assert time.monotonic() - began < 2.0
    assert longest < 0.3
    assert "did not answer within 0.5 s" in error.cause
    broker.thaw()


async def test_a_killed_broker_answers_every_waiting_message_with_a_loss(broker: Broker) -> None:
    connection = await opened(broker.port)
    broker.freeze()
    waiting = [asyncio.ensure_future(connection.publish("plant/x", b"x", None)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert connection.outstanding == 50
    broker.kill()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, ConnectionLost) for answer in answers)
    assert connection.outstanding_at_loss == 50
    assert "the connection was lost" in connection.lost.result().cause
    with pytest.raises(ConnectionLost):
        await connection.publish("plant/x", b"x", None)


async def test_a_broker_that_freezes_is_noticed_within_the_keepalive_time(broker: Broker) -> None:
    connection = await opened(broker.port, keepalive_s=5)
    broker.freeze()
    began = time.monotonic()
    loss = await asyncio.wait_for(connection.lost, 10)
    assert time.monotonic() - began < 6.5
    assert "no longer answers" in loss.cause
    broker.thaw()


async def test_an_idle_connection_outlives_its_keepalive(broker: Broker) -> None:
    connection = await opened(broker.port, keepalive_s=5)
    await asyncio.sleep(3.6)  # we ping every 2 s; the broker gives up after 3
    assert not connection.lost.done()
    assert await connection.publish("plant/x", b"x", None) == 0x10
    await connection.close()


async def test_a_second_instance_of_the_same_name_takes_the_session_over(broker: Broker) -> None:
    first = await opened(broker.port)
    second = await opened(broker.port)
    loss = await asyncio.wait_for(first.lost, 5)
    assert f"127.0.0.1:{broker.port}" in loss.cause
    assert second.session_present
    await second.close()


async def test_the_will_is_said_when_we_die_and_not_when_we_leave(broker: Broker) -> None:
    mes = broker.listen("plant/state")
    connection = await opened(broker.port)
    await connection.close()
    await asyncio.sleep(0.2)
    assert not mes.messages
    connection = await opened(broker.port)
    connection.drop()
    (message,) = await asyncio.to_thread(mes.wait_for, 1)
    assert message.payload == WILL.body


async def test_mqtt_3_1_1_sees_no_refusals(broker: Broker) -> None:
    connection = await opened(broker.port, protocol="3.1.1")
    assert await connection.publish("plant/unheard", b"x", None) == 0x00
    await connection.close()


# --- TLS -----------------------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str, issuer: str | None = None) -> None:
    """`{name}.crt` and `{name}.key`, signed by `issuer` or by itself; for 127.0.0.1."""
    key = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    if issuer is None:
        command = [*key, "-x509", "-out", f"{name}.crt", *subject]
    else:
        subprocess.run([*key, "-out", f"{name}.csr", *subject[:4]], cwd=folder, check=True, capture_output=True)
        signing = ["openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial"]
        command = [*signing, "-out", f"{name}.crt", "-days", "2", "-copy_extensions", "copy"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@contextmanager
def tls_broker(start_broker: Callable[..., Broker], folder: Path) -> Iterator[Broker]:
    for name, issuer in (("ca", None), ("other", None), ("server", "ca"), ("client", "ca")):
        certificate(folder, name, issuer)
    files = f"cafile {folder}/ca.crt\ncertfile {folder}/server.crt\nkeyfile {folder}/server.key"
    yield start_broker(extra=f"{files}\nrequire_certificate true\nuse_identity_as_username true")


# paho leaves the socket of a failed TLS handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls_both_ways_and_what_is_said_when_it_fails(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    ours = {"ca": tmp_path / "ca.crt", "cert": tmp_path / "client.crt", "key": tmp_path / "client.key"}
    with tls_broker(start_broker, tmp_path) as broker:
        got: list[bytes] = []
        connection = await Connection.open(dialler(broker.port, **ours), lambda _topic, body, _retained: got.append(body))
        assert await connection.subscribe("plant/#") < 0x80
        bodies = [bytes([number]) * 20_000 for number in range(100)]
        codes = await asyncio.gather(*(connection.publish("plant/x", body, None) for body in bodies))
        assert codes == [0] * 100
        async with asyncio.timeout(5):
            while len(got) < 100:
                await asyncio.sleep(0.01)
        assert got == bodies
        await connection.close()
        error = await refusal(broker.port, ca=tmp_path / "other.crt")
        assert "certificate is not accepted" in error.cause and "other.crt" in error.hint
        error = await refusal(broker.port, ca=tmp_path / "ca.crt")  # we show none
        assert f"127.0.0.1:{broker.port}" in error.cause
        error = await refusal(broker.port, deadline_s=2.0)  # no TLS at all
        assert f"127.0.0.1:{broker.port}" in error.cause
    del error
    gc.collect()
