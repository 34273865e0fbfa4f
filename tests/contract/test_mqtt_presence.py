"""State, birth, health and telemetry as the plant sees them, and a broker that will not let us in."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from contract.publisher_outbox import BASE, Board, MemoryOutbox
from contract.test_publisher import running, until
from edged.backoff import Backoff
from edged.nouns import HealthItem, HealthStatus
from edged.plant.schema import birth_message, health_message, state_message
from rigs.mosquitto import Broker, Listener, Received


def on(mes: Listener, topic: str) -> list[Received]:
    return [message for message in list(mes.messages) if message.topic == f"{BASE}/{topic}"]


def valid(adapter: TypeAdapter[Any], message: Received) -> dict[str, Any]:
    adapter.validate_json(message.payload, strict=False)
    told: dict[str, Any] = json.loads(message.payload)
    return told


async def test_one_who_comes_later_sees_who_we_are_and_how_we_are(broker: Broker) -> None:
    items = [HealthItem("ledger", HealthStatus.OK, since=datetime.now(UTC))]
    facts: dict[str, Any] = {"health": lambda: tuple(items), "backlog": lambda: {"undelivered": 3, "oldest_s": float("nan")}}
    async with running(MemoryOutbox(), broker.port, **facts, birth=lambda: {"models": [{"name": "m", "version": "1"}]}) as plant:
        await until(lambda: plant.snapshot().connected)
        await asyncio.sleep(0.2)
        mes = broker.listen(f"{BASE}/#")
        await until(lambda: len(mes.messages) >= 3)
        assert all(message.retain for message in mes.messages)
        state = valid(state_message, on(mes, "state")[0])
        assert state["online"] is True and state["reason"] == "connected"
        birth = valid(birth_message, on(mes, "birth")[0])
        assert birth["cameras"] == [{"name": "cam1", "recipe": "r"}] and birth["models"] == [{"name": "m", "version": "1"}]
        health = valid(health_message, on(mes, "health")[0])
        assert health["status"] == "ok" and health["backlog"] == {"undelivered": 3, "oldest_s": None}
        assert 100 < on(mes, "health")[0].properties["MessageExpiryInterval"] <= 120
        items.append(HealthItem("triton", HealthStatus.DOWN, "nothing listens", "start it", datetime.now(UTC)))
        await until(lambda: len(on(mes, "health")) >= 2, 3.0)
        changed = valid(health_message, on(mes, "health")[1])
        assert changed["status"] == "down" and changed["items"]["triton"]["cause"] == "nothing listens"


async def test_a_clean_end_says_so_and_a_loss_leaves_the_will(broker: Broker) -> None:
    mes = broker.listen(f"{BASE}/state")
    async with running(MemoryOutbox(), broker.port, will_delay_s=0) as plant:
        await until(lambda: plant.snapshot().connected)
        connection = plant._connection
        assert connection is not None
        connection.drop()
        await until(lambda: len(mes.messages) >= 3)
    await until(lambda: len(mes.messages) >= 4)
    said = [(told["online"], told["reason"]) for told in (valid(state_message, message) for message in mes.messages)]
    assert said == [(True, "connected"), (False, "connection-lost"), (True, "connected"), (False, "stopped")]


async def test_telemetry_asks_for_no_answer(broker: Broker) -> None:
    mes = broker.listen(f"{BASE}/telemetry")
    async with running(MemoryOutbox(), broker.port, telemetry=lambda: {"queues": {"landings": 2}}):
        await until(lambda: len(mes.messages) >= 1)
    assert mes.messages[0].qos == 0
    assert json.loads(mes.messages[0].payload)["queues"] == {"landings": 2}


async def test_a_refused_password_is_one_sentence_in_health_and_no_storm(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    broker, board, outbox = start_broker(users={"edged": "right"}), Board(), MemoryOutbox()
    (tmp_path / "password").write_text("wrong")
    outbox.put()
    credentials = {"username": "edged", "password_file": str(tmp_path / "password")}
    cpu = time.process_time()
    every = {"backoff": Backoff(first_s=0.1, cap_s=0.1), "refused_s": 0.25}
    async with running(outbox, broker.port, board, **credentials, **every, no_subscriber="accept"):
        await asyncio.sleep(1.5)
        status, cause, hint = board.last
        assert status is HealthStatus.DOWN
        assert f"127.0.0.1:{broker.port}" in cause and "\n" not in cause
        assert "password_file" in hint
        assert 3 <= len(board.reports) <= 12
        assert time.process_time() - cpu < 0.75
        assert outbox.states() == ["due"]
        (tmp_path / "password").write_text("right")  # the technician corrects it; nothing needs a restart
        await until(lambda: outbox.states() == ["delivered"], 3.0)
        assert board.last[0] is HealthStatus.OK


async def test_nothing_to_talk_to_holds_up_no_end() -> None:
    board = Board()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with running(MemoryOutbox(), unused.getsockname()[1], board, backoff=Backoff(first_s=60, cap_s=60)):
            await until(lambda: bool(board.reports))
            began = time.monotonic()
    assert time.monotonic() - began < 0.5
    assert board.last[0] is HealthStatus.DOWN and "nothing listens there" in board.last[1]


@pytest.mark.parametrize("when", ["at once", "with a row on its way"])
async def test_a_broker_that_freezes_holds_up_the_end_for_seconds_only(broker: Broker, when: str) -> None:
    outbox = MemoryOutbox()
    async with running(outbox, broker.port, no_subscriber="accept") as plant:
        if when == "at once":
            await until(lambda: plant.snapshot().connected)
            broker.freeze()
            outbox.put()
        else:
            first = outbox.put()
            await until(lambda: first.state == "delivered")
            broker.freeze()
            outbox.put()
            await until(lambda: plant.snapshot().in_flight == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 4.5
    assert outbox.states()[-1] == "due"
    broker.thaw()
