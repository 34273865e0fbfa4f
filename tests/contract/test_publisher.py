"""The publisher over the real Mosquitto: what it promises of each row."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.publisher_outbox import BASE, Board, MemoryOutbox
from edged.backoff import Backoff
from edged.config import Config, from_data
from edged.config.peers import Mqtt
from edged.nouns import HealthStatus
from edged.plant import Plant
from edged.plant.outbox import Outbox
from rigs.mosquitto import Broker, Listener

POISON = BASE + "/result/cam1/" + "/".join("x" * 300)
"""More levels than Mosquitto takes: it drops the connection."""


def configuration(port: int, **mqtt: Any) -> Config:
    camera = {"name": "cam1", "folder": "/nowhere", "recipe": "r"}
    return from_data({"camera": [camera], "recipe": [{"name": "r", "models": ["m"]}], "mqtt": {"port": port, **mqtt}})


@asynccontextmanager
async def plant_runs(config: Config, outbox: Outbox, board: Any = None, **options: Any) -> AsyncIterator[Plant]:
    """A plant that runs; it is told to stop at the end, and must come to one within 5 s."""
    options.setdefault("backoff", Backoff(first_s=0.1, cap_s=0.3))
    plant = Plant(config, outbox=outbox, board=board or Board(), **options)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(plant.run(stop))
        try:
            yield plant
        finally:
            stop.set()
            async with asyncio.timeout(5):
                await task


@asynccontextmanager
async def running(outbox: MemoryOutbox, port: int, board: Board | None = None, **options: Any) -> AsyncIterator[Plant]:
    """The same on an outbox in memory; options of [mqtt] are among the others."""
    mqtt = {key: options.pop(key) for key in list(options) if key in Mqtt.model_fields}
    async with plant_runs(configuration(port, **mqtt), outbox, board, **options) as plant:
        yield plant


async def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "this did not come true in time"
        await asyncio.sleep(0.01)


def bodies(mes: Listener) -> list[bytes]:
    return [message.payload for message in list(mes.messages)]


def users(mes: Listener, number: int) -> dict[str, str]:
    return dict(mes.messages[number].properties["UserProperty"])


async def test_what_is_stored_is_what_the_mes_gets(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/result/#")
    stored = '{"name":"Größe µm","n":1}'.encode()
    outbox.put(body=stored)
    async with running(outbox, broker.port):
        await until(lambda: outbox.states() == ["delivered"])
        later = outbox.put(body=b'{"later":1}')
        await until(lambda: later.state == "delivered")
    await until(lambda: len(mes.messages) >= 2)
    assert bodies(mes) == [stored, b'{"later":1}']
    properties = mes.messages[0].properties
    assert properties["ContentType"] == "application/cloudevents+json; charset=utf-8"
    assert properties["PayloadFormatIndicator"] == 1
    assert users(mes, 0) == {"type": "edged.result", "id": "id-1", "replayed": "true", "attempt": "1"}
    assert users(mes, 1)["replayed"] == "false"


async def test_rows_arrive_in_the_order_of_their_numbers(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/result/#")
    for number in range(500):
        outbox.put(f"{BASE}/result/cam{number % 3}/pass", str(number).encode())
    async with running(outbox, broker.port, window=50):
        await until(lambda: set(outbox.states()) == {"delivered"})
    await until(lambda: len(mes.messages) >= 500)
    assert [int(body) for body in bodies(mes)] == list(range(500))


async def test_a_fresh_result_overtakes_the_backlog_and_a_slow_drain_slows_only_the_backlog(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/result/#")
    for _ in range(100):
        outbox.put(body=b"old")
    async with running(outbox, broker.port, drain_max_per_s=20):
        await until(lambda: len(mes.messages) >= 3)
        began = time.monotonic()
        news = [outbox.put(body=b"new") for _ in range(20)]
        await until(lambda: all(entry.state == "delivered" for entry in news), 2.0)
        assert time.monotonic() - began < 1.0
        assert outbox.states().count("due") > 50
        old_s = time.monotonic() - began
    assert bodies(mes).count(b"old") <= 3 + 20 * (old_s + 2.5) + 3  # what is due at the end is tried for 2 s


async def test_a_broker_killed_and_restarted_gets_every_row_that_it_had_not_acknowledged_in_order(broker: Broker) -> None:
    """What it had acknowledged and not passed on is lost with it: that is what `confirm = "mes"` is for."""
    outbox, counted = MemoryOutbox(), list[str]()
    broker.listen(f"{BASE}/result/#", qos=0)
    async with running(outbox, broker.port, window=20, published=counted.append) as plant:
        for number in range(300):
            outbox.put(body=str(number).encode())
        await until(lambda: counted.count("0x00") >= 40)
        broker.kill()
        await until(lambda: not plant.snapshot().connected)
        acknowledged = counted.count("0x00")
        assert acknowledged < 300
        assert f"127.0.0.1:{broker.port}" in plant.snapshot().cause
        broker.start()
        heard = broker.listen(f"{BASE}/result/#", qos=0)
        await until(lambda: outbox.states()[:300].count("delivered") == 300)
        await until(lambda: len(heard.messages) >= 300 - acknowledged)
    arrived = [int(body) for body in bodies(heard)]
    assert arrived == sorted(set(arrived))
    assert set(range(acknowledged, 300)) <= set(arrived)
    again = [dict(m.properties["UserProperty"])["attempt"] for m in heard.messages if int(m.payload) == acknowledged]
    assert again == ["2"] or counted.count("lost") == 0


async def test_nobody_subscribed_holds_the_topic_until_somebody_is(broker: Broker) -> None:
    outbox, board = MemoryOutbox(), Board()
    fails, passes = f"{BASE}/result/cam1/fail", f"{BASE}/result/cam1/pass"
    broker.listen(passes)
    for number in range(5):
        outbox.put(fails, str(number).encode())
        outbox.put(passes)
    async with running(outbox, broker.port, board, probe_s=0.4) as plant:
        await until(lambda: [e.state for e in outbox.entries.values() if e.topic == passes] == ["delivered"] * 5)
        await until(lambda: plant.snapshot().held == (fails,))
        late = outbox.put(fails, b"5")
        assert outbox.said == [("no-subscriber", {"topic": fails, "state": "held"})]
        status, cause, hint = board.last
        assert status is HealthStatus.DEGRADED
        assert fails in cause and "nobody subscribes" in cause and "no_subscriber" in hint
        await asyncio.sleep(1.0)  # two probes, nobody there
        assert late.state == "held"
        assert len(outbox.said) == 1
        mes = broker.listen(fails)
        await until(lambda: late.state == "delivered")
        await until(lambda: board.last[0] is HealthStatus.OK)
    await until(lambda: len(mes.messages) >= 6)
    assert bodies(mes) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert outbox.said[1:] == [("no-subscriber", {"topic": fails, "state": "released"})]


async def test_no_subscriber_accept_and_events_need_no_listener(broker: Broker) -> None:
    outbox = MemoryOutbox()
    outbox.put(f"{BASE}/event/audit", kind="event")
    held = outbox.put()
    async with running(outbox, broker.port):
        await until(lambda: outbox.entries[1].state == "delivered" and held.state == "held")
    accepting = MemoryOutbox()
    accepting.put()
    async with running(accepting, broker.port, no_subscriber="accept"):
        await until(lambda: accepting.states() == ["delivered"])


async def test_a_denied_topic_is_parked_and_announced_and_the_rest_goes_on(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    allowed = "".join(f"topic write {BASE}/{topic}\n" for topic in ("result/cam1/#", "event/#", "state"))
    acl = f"user edged\n{allowed}\nuser mes\ntopic read #\n"
    broker = start_broker(users={"edged": "secret", "mes": "m"}, acl=acl)
    (tmp_path / "password").write_text("secret\n")
    mes = broker.listen(f"{BASE}/#", user="mes", password="m")
    outbox, board = MemoryOutbox(), Board()
    for _ in range(3):
        outbox.put(f"{BASE}/result/cam2/pass")
        outbox.put(f"{BASE}/result/cam1/pass")
    credentials = {"username": "edged", "password_file": str(tmp_path / "password")}
    async with running(outbox, broker.port, board, **credentials):
        await until(lambda: len(outbox.entries) >= 7 and "due" not in outbox.states())
        await until(lambda: board.last[0] is HealthStatus.DEGRADED and "cam2" in board.last[1])
    assert [entry.state for entry in outbox.entries.values() if "cam2" in entry.topic] == ["parked"] * 3
    assert [entry.state for entry in outbox.entries.values() if "cam1" in entry.topic] == ["delivered"] * 3
    kind, data = outbox.said[0]
    assert kind == "publish-refused"
    assert data["topic"] == f"{BASE}/result/cam2/pass" and "0x87" in data["reason"]
    told = [span for _kind, each in outbox.said for span in each["sequences"]]
    assert sorted(n for first, last in told for n in range(first, last + 1)) == [1, 3, 5]
    assert any(message.topic.endswith("event/publish-refused") for message in mes.messages)


async def test_a_row_above_the_brokers_packet_limit_is_parked_at_once(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_packet_size=4096)
    mes = broker.listen(f"{BASE}/result/#")
    outbox = MemoryOutbox()
    outbox.put(body=b"x" * 5000)
    outbox.put(body=b"small")
    async with running(outbox, broker.port) as plant:
        await until(lambda: outbox.states()[:2] == ["parked", "delivered"])
        assert plant.snapshot().connected
    await until(lambda: len(mes.messages) >= 1)
    assert bodies(mes) == [b"small"]
    kind, data = outbox.said[0]
    assert kind == "row-parked" and "4096" in data["reason"] and data["sequences"] == [[1, 1]]


async def test_a_poison_row_is_found_by_three_strikes_and_the_innocent_pass(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/result/#")
    for number in range(10):
        outbox.put(body=str(number).encode())
    poison = outbox.put(POISON, b"poison")
    for number in range(10, 20):
        outbox.put(body=str(number).encode())
    async with running(outbox, broker.port, window=8):
        await until(lambda: poison.state == "parked" and outbox.states().count("delivered") >= 20, 20)
    assert poison.strikes == 3
    assert all(entry.strikes == 0 for entry in outbox.entries.values() if entry is not poison)
    await until(lambda: {int(body) for body in bodies(mes)} == set(range(20)))
    _kind, data = next(said for said in outbox.said if said[0] == "row-parked")
    assert data["sequences"] == [[poison.sequence, poison.sequence]]


async def test_a_kill_of_the_broker_condemns_no_row(broker: Broker) -> None:
    outbox = MemoryOutbox()
    broker.listen(f"{BASE}/result/#")
    for _ in range(50):
        outbox.put(body=b"x" * 1000)
    async with running(outbox, broker.port, window=10) as plant:
        for _ in range(3):
            await until(lambda: plant.snapshot().connected)
            broker.kill()
            await until(lambda: not plant.snapshot().connected)
            broker.start()
            broker.listen(f"{BASE}/result/#")
        await until(lambda: set(outbox.states()) <= {"delivered"})
    assert not outbox.said or {kind for kind, _ in outbox.said} <= {"no-subscriber"}


async def test_with_confirm_mes_a_row_stays_until_the_mes_has_said_so(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/result/#")
    for number in range(4):
        outbox.put(body=str(number).encode())
    ack = {"source": "/enterprise/site/area/tool/edged/a", "epoch": "e1", "kind": "result"}
    async with running(outbox, broker.port, confirm="mes", ack_timeout_s=0.6):
        await until(lambda: outbox.states() == ["accepted"] * 4)
        mes.publish(f"{BASE}/ack", "not json")
        mes.publish(f"{BASE}/ack", json.dumps({**ack, "source": "/another", "up_to_sequence": 4}))
        mes.publish(f"{BASE}/ack", json.dumps({**ack, "up_to_sequence": 3, "missing": [[2, 2]]}))
        await until(lambda: [e.sequence for e in outbox.entries.values() if e.state == "delivered"] == [1, 3])
        await until(lambda: bodies(mes).count(b"1") >= 2 and bodies(mes).count(b"3") >= 2)  # sequences 2 and 4 once more
        mes.publish(f"{BASE}/ack", json.dumps({**ack, "up_to_sequence": 4}))
        await until(lambda: set(outbox.states()) == {"delivered"})
    assert bodies(mes).count(b"0") == 1
    again = [dict(m.properties["UserProperty"]) for m in mes.messages if m.payload == b"1"][1]
    assert again["replayed"] == "true" and again["attempt"] == "2"


async def test_what_is_due_at_the_end_is_still_published(broker: Broker) -> None:
    outbox, mes = MemoryOutbox(), broker.listen(f"{BASE}/#")
    async with running(outbox, broker.port) as plant:
        await until(lambda: plant.snapshot().connected)
        outbox.put(body=b"last")
    assert outbox.states() == ["delivered"]
    await until(lambda: json.loads([m.payload for m in mes.messages if m.topic.endswith("/state")][-1])["online"] is False)
    order = [message.topic.rpartition("/")[2] for message in mes.messages]
    assert order.index("pass") < len(order) - 1 - order[::-1].index("state")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_answers_are_counted(broker: Broker, protocol: str) -> None:
    outbox, counted = MemoryOutbox(), list[str]()
    broker.listen(f"{BASE}/result/#")
    for _ in range(3):
        outbox.put()
    async with running(outbox, broker.port, protocol=protocol, published=counted.append):
        await until(lambda: set(outbox.states()) == {"delivered"})
    assert counted == ["0x00"] * 3
