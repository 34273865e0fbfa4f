"""From the ledger's file to the MES: the real outbox, the real publisher, the real broker."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema

from contract.ledger_pages import BASE, HeardBoard, opened, page
from edged.backoff import Backoff
from edged.config import Config, from_data
from edged.ledger import Ledger
from edged.nouns import VerdictKind
from edged.plant import Plant
from edged.plant.messages import result_schema
from rigs.mosquitto import Broker, Listener

STATION = {"enterprise": "acme", "site": "fab2", "area": "litho", "tool": "INSP07", "instance": "a"}


def configuration(port: int, **mqtt: Any) -> Config:
    camera = {"name": "cam1", "folder": "/nowhere", "recipe": "r"}
    recipe = {"name": "r", "models": ["m"]}
    return from_data({"station": STATION, "camera": [camera], "recipe": [recipe], "mqtt": {"port": port, **mqtt}})


@asynccontextmanager
async def delivering(
    ledger: Ledger, port: int, board: HeardBoard | None = None, probe_s: float = 60.0, **mqtt: Any
) -> AsyncIterator[Plant]:
    backoff = Backoff(first_s=0.1, cap_s=0.3)
    plant = Plant(configuration(port, **mqtt), outbox=ledger.outbox, board=board or HeardBoard(), probe_s=probe_s, backoff=backoff)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(plant.run(stop))
        try:
            yield plant
        finally:
            stop.set()


async def record(ledger: Ledger, numbers: range, **facts: Any) -> None:
    await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"content %d" % n, **facts)]) for n in numbers))


async def undelivered(ledger: Ledger) -> list[int]:
    return [row.sequence for row in await ledger.outbox.due("backlog", 100_000, 0, 2**62)]


async def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "this did not come true in time"
        await asyncio.sleep(0.02)


async def until_empty(ledger: Ledger) -> None:
    deadline = time.monotonic() + 20
    while left := await undelivered(ledger):
        assert time.monotonic() < deadline, f"{len(left)} rows are left"
        await asyncio.sleep(0.05)


def results(mes: Listener) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in list(mes.messages) if "/result/" in message.topic]


async def test_what_the_mes_gets_is_byte_for_byte_what_was_committed_and_fits_the_schema(tmp_path: Path, broker: Broker) -> None:
    mes = broker.listen(f"{BASE}/#")
    validator = jsonschema.Draft202012Validator(result_schema())
    async with opened(tmp_path) as ledger, delivering(ledger, broker.port):
        for verdict in VerdictKind:
            await record(ledger, range(3), verdict=verdict, camera=f"cam-{verdict.lower()}")
        stored = {row.id: row for row in await ledger.outbox.due("backlog", 100, 0, 2**62)}
        await until(lambda: len(results(mes)) == 12)
        await until_empty(ledger)
        for message in mes.messages:
            if "/result/" not in message.topic:
                continue
            said = json.loads(message.payload)
            validator.validate(said)
            assert message.topic.endswith(f"/{said['data']['verdict'].lower()}")
            if said["id"] in stored:
                assert message.payload == stored[said["id"]].body
        stages = {"seen", "settled", "decoded", "inferred", "judged", "recorded", "delivered"}
        assert {entry["what"] for entry in await ledger.trace("0.png")} == stages


async def test_a_broker_killed_and_restarted_half_way_gets_everything_that_it_had_not_taken(tmp_path: Path, broker: Broker) -> None:
    mes = broker.listen(f"{BASE}/result/#")
    async with opened(tmp_path) as ledger:
        await record(ledger, range(600))
        async with delivering(ledger, broker.port, window=50):
            await until(lambda: len(mes.messages) > 100)
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(0.3)
            owed = {f"{sequence:012d}" for sequence in await undelivered(ledger)}  # of the others the broker had said that it has them
            assert owed
            await record(ledger, range(600, 700))
            await asyncio.to_thread(broker.start)
            again = broker.listen(f"{BASE}/result/#")
            await until_empty(ledger)
            owed |= {f"{sequence:012d}" for sequence in range(601, 701)}
            await until(lambda: owed <= {said["sequence"] for said in results(mes) + results(again)})
        first = [said["sequence"] for said in results(mes)]
        assert first[:100] == sorted(first[:100])
        bodies: dict[str, set[bytes]] = {}
        for message in [*mes.messages, *again.messages]:
            bodies.setdefault(json.loads(message.payload)["id"], set()).add(message.payload)
        assert all(len(each) == 1 for each in bodies.values())


async def test_rows_wait_for_a_subscriber_over_a_restart_of_the_daemon(tmp_path: Path, broker: Broker) -> None:
    async with opened(tmp_path) as ledger:
        await record(ledger, range(5))
        async with delivering(ledger, broker.port, probe_s=0.2) as plant:
            await until(lambda: plant.snapshot().held == (f"{BASE}/result/cam1/pass",))
            await record(ledger, range(5, 8))
    async with opened(tmp_path) as ledger, delivering(ledger, broker.port, probe_s=0.2):
        mes = broker.listen(f"{BASE}/result/#")
        await until(lambda: len({said["sequence"] for said in results(mes)}) == 8)
        await record(ledger, range(8, 9))
        await until(lambda: len({said["sequence"] for said in results(mes)}) == 9)


async def test_a_refused_row_is_traced_with_its_reason_and_announced(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    ours = "".join(f"topic write {BASE}/{each}\n" for each in ("result/cam1/#", "event/#", "state"))
    acl = f"user edged\n{ours}user mes\ntopic read {BASE}/#\n"
    broker = start_broker(users={"edged": "secret", "mes": "secret"}, acl=acl)
    (tmp_path / "password").write_text("secret\n")
    mes = broker.listen(f"{BASE}/#", user="mes", password="secret")
    account = {"username": "edged", "password_file": str(tmp_path / "password")}
    async with opened(tmp_path / "state") as ledger, delivering(ledger, broker.port, **account):
        await record(ledger, range(2), camera="cam2")
        await record(ledger, range(3))
        await until(lambda: any(message.topic.endswith("event/publish-refused") for message in mes.messages))
        await until(lambda: len(results(mes)) == 3)
        await until_empty(ledger)
        told = await ledger.trace("0.png")
        parked = next(entry for entry in told if entry["what"] == "parked")
        assert parked["camera"] == "cam2"
        assert "authoris" in parked["note"].lower() or "authoriz" in parked["note"].lower()


async def test_with_confirm_mes_a_broker_that_forgets_everything_loses_nothing(start_broker: Callable[..., Broker], tmp_path: Path) -> None:
    """The broker is killed right after its PUBACKs, and keeps nothing: its word alone would have lost them."""
    broker = start_broker(persistence=False)
    keeper = broker.listen(f"{BASE}/result/#")  # so that the broker says 0x00
    async with opened(tmp_path) as ledger, delivering(ledger, broker.port, confirm="mes", ack_timeout_s=0.5):
        await record(ledger, range(20))
        await until(lambda: len(results(keeper)) == 20)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        mes = broker.listen(f"{BASE}/result/#")
        await until(lambda: len({said["sequence"] for said in results(mes)}) == 20)
        ack = {"source": "/acme/fab2/litho/INSP07/edged/a", "epoch": ledger.epoch, "kind": "result", "up_to_sequence": 20, "missing": []}

        async def delivered() -> int:
            rows, _ = await ledger.results(limit=100)
            return sum(bool(row["delivered"]) for row in rows)

        assert await delivered() == 0
        deadline = time.monotonic() + 10
        while await delivered() < 20:
            assert time.monotonic() < deadline
            await asyncio.to_thread(mes.publish, f"{BASE}/ack", json.dumps(ack))
            await asyncio.sleep(0.1)
        count = len(mes.messages)
        await asyncio.sleep(1.5)
        assert len(mes.messages) == count  # nothing is sent again after that


async def test_a_ledger_that_cannot_be_written_for_a_while_ends_neither_the_plant_nor_a_row(tmp_path: Path, broker: Broker) -> None:
    mes = broker.listen(f"{BASE}/result/#")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    board = HeardBoard()
    async with opened(tmp_path, board, tick_s=0.1) as ledger:
        await record(ledger, range(50))
        try:
            async with delivering(ledger, broker.port, board) as plant:
                resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ledger.db-wal").stat().st_size, limits[1]))
                await until(lambda: len({said["sequence"] for said in results(mes)}) == 50)
                await asyncio.sleep(1.0)
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                await until_empty(ledger)
                await record(ledger, range(50, 60))
                await until(lambda: len({said["sequence"] for said in results(mes)}) == 60)
                assert plant.snapshot().connected
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
