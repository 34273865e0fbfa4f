"""The plant on the real ledger and the real Mosquitto: what was recorded reaches the MES, as it was recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema

from contract.ledger_pages import BASE, STATION, HeardBoard, opened, page
from contract.test_publisher import bodies, configuration, plant_runs, until
from edged.config import Config
from edged.ledger import Ledger
from edged.nouns import VerdictKind
from edged.plant import result_schema
from rigs.mosquitto import Broker

VALIDATOR = jsonschema.Draft202012Validator(result_schema())


def config(port: int, **mqtt: Any) -> Config:
    return configuration(port, **mqtt).model_copy(update={"station": STATION})


async def recorded(ledger: Ledger, numbers: range, verdict: VerdictKind = VerdictKind.PASS) -> None:
    await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"%d" % n, verdict=verdict)]) for n in numbers))


def sequences(told: list[bytes]) -> list[int]:
    return [int(json.loads(body)["sequence"]) for body in told]


async def undelivered(ledger: Ledger) -> int:
    return len(await ledger.outbox.due("backlog", 10_000, 0, 2**62))


async def test_every_recorded_verdict_arrives_once_valid_and_in_order(broker: Broker, tmp_path: Path) -> None:
    mes = broker.listen(f"{BASE}/result/#")
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(150))
        async with plant_runs(config(broker.port, window=30), ledger.outbox):
            await recorded(ledger, range(150, 300))
            await until(lambda: len(mes.messages) >= 300)
        assert await undelivered(ledger) == 0
    assert sequences(bodies(mes)) == list(range(1, 301))
    for message in mes.messages:
        body = json.loads(message.payload)
        VALIDATOR.validate(body)
        user = dict(message.properties["UserProperty"])
        assert (user["id"], user["verdict"], user["attempt"]) == (body["id"], "PASS", "1")


async def test_what_was_not_delivered_goes_out_after_a_restart_with_the_same_body(broker: Broker, tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(20))
        stored = [row.body for row in await ledger.outbox.due("backlog", 100, 0, 2**62)]
    mes = broker.listen(f"{BASE}/result/#")
    async with opened(tmp_path) as ledger, plant_runs(config(broker.port), ledger.outbox):
        await until(lambda: len(mes.messages) >= 20)
    assert bodies(mes) == stored
    assert {dict(message.properties["UserProperty"])["replayed"] for message in mes.messages} == {"true"}


async def test_a_topic_without_subscriber_is_held_over_a_restart_and_released(broker: Broker, tmp_path: Path) -> None:
    passes = broker.listen(f"{BASE}/result/cam1/pass")
    events = broker.listen(f"{BASE}/event/#")
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(5), VerdictKind.FAIL)
        async with plant_runs(config(broker.port), ledger.outbox) as plant:
            await until(lambda: plant.snapshot().held == (f"{BASE}/result/cam1/fail",))
            await recorded(ledger, range(5, 10))
            await until(lambda: len(passes.messages) >= 5)
            await until(lambda: len(events.messages) >= 1)
    fails = broker.listen(f"{BASE}/result/cam1/fail")
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(10, 15), VerdictKind.FAIL)
        async with plant_runs(config(broker.port), ledger.outbox) as plant:
            await until(lambda: len(fails.messages) >= 10)
            await until(lambda: plant.snapshot().held == ())
            await until(lambda: len(events.messages) >= 2)
    assert sequences(bodies(fails)) == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15]
    # At least once: an id may come twice, never with two bodies.
    told = {message["id"]: message["data"]["state"] for message in map(json.loads, bodies(events))}
    assert list(told.values()) == ["held", "released"]


async def test_with_confirm_mes_only_the_mes_lets_a_row_go(broker: Broker, tmp_path: Path) -> None:
    mes = broker.listen(f"{BASE}/result/#")
    async with opened(tmp_path) as ledger:
        await recorded(ledger, range(5))
        async with plant_runs(config(broker.port, confirm="mes", ack_timeout_s=0.5), ledger.outbox):
            await until(lambda: len(mes.messages) >= 10)  # each once more: nobody said a word
            ack = {"source": STATION.source, "epoch": ledger.epoch, "kind": "result", "up_to_sequence": 5, "missing": [[4, 4]]}
            mes.publish(f"{BASE}/ack", json.dumps(ack))
            await until(lambda: sequences(bodies(mes)).count(4) >= 4)
            counts = {n: sequences(bodies(mes)).count(n) for n in (1, 2, 3, 5)}
            await until(lambda: sequences(bodies(mes)).count(4) >= 5)
            assert {n: sequences(bodies(mes)).count(n) for n in (1, 2, 3, 5)} == counts
            mes.publish(f"{BASE}/ack", json.dumps({**ack, "missing": []}))
            await asyncio.sleep(0.3)
        assert await undelivered(ledger) == 0
    assert len({message.payload for message in mes.messages}) == 5


async def test_strikes_are_remembered_over_a_restart(broker: Broker, tmp_path: Path) -> None:
    poison = "/".join("x" * 300)  # more topic levels than Mosquitto takes: it drops the connection
    events = broker.listen(f"{BASE}/event/#")
    async with opened(tmp_path) as ledger:
        await ledger.record([page(camera=poison)])
        (row,) = await ledger.outbox.due("backlog", 10, 0, 2**62)
        assert [await ledger.outbox.struck(row.row) for _ in range(2)] == [1, 2]
    counted = list[str]()
    async with opened(tmp_path) as ledger, plant_runs(config(broker.port), ledger.outbox, HeardBoard(), published=counted.append):
        await until(lambda: len(events.messages) >= 1)
        async with asyncio.timeout(10):
            while await undelivered(ledger):  # the MES may have it before the broker has answered us
                await asyncio.sleep(0.02)
    assert counted == ["lost", "0x00"]
    told = json.loads(events.messages[0].payload)
    assert told["type"] == "edged.event.row-parked.v1"
    assert told["data"]["sequences"] == [[1, 1]] and told["data"]["kind"] == "result"
