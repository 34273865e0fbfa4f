"""Answers that Mosquitto never gives, from a broker that answers as it is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from contract.publisher_outbox import BASE, Board, MemoryOutbox
from contract.scripted_broker import scripted
from contract.test_publisher import running, until
from edged.nouns import HealthStatus


def rows(got: list[tuple[str, bytes]]) -> list[bytes]:
    return [body for topic, body in got if "/result/" in topic]


async def test_quota_exceeded_waits_and_sends_the_row_again() -> None:
    refused_until = time.monotonic() + 1.5

    def answer(topic: str, _body: bytes) -> int:
        return 0x97 if "/result/" in topic and time.monotonic() < refused_until else 0x00

    outbox = MemoryOutbox()
    for number in range(3):
        outbox.put(body=str(number).encode())
    async with scripted(answer) as broker, running(outbox, broker.port):
        await until(lambda: outbox.states() == ["delivered"] * 3)
        got = rows(broker.got)
        assert broker.connections == 1
    assert not outbox.said
    assert len(got) <= 12  # no storm: at once, after 1 s, after 2 s
    assert got[-3:] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("code", [0x87, 0x90, 0x99, 0x80])
async def test_a_refused_row_is_sent_once_and_put_aside(code: int) -> None:
    outbox, board = MemoryOutbox(), Board()
    for number in range(20):
        outbox.put(body=str(number).encode())
    async with scripted(lambda topic, body: code if body == b"7" else 0x00) as broker, running(outbox, broker.port, board):
        await until(lambda: outbox.states()[:20].count("delivered") == 19 and outbox.entries[8].state == "parked")
        await until(lambda: board.last[0] is HealthStatus.DEGRADED and f"0x{code:02X}" in board.last[1])
        assert rows(broker.got).count(b"7") == 1
    assert [kind for kind, _ in outbox.said] == ["publish-refused"]


async def test_many_refusals_make_few_events_that_name_every_sequence() -> None:
    outbox = MemoryOutbox()
    for _ in range(600):
        outbox.put()
    async with scripted(lambda topic, _body: 0x87 if "/result/" in topic else 0x00) as broker, running(outbox, broker.port):
        await until(lambda: outbox.states()[:600] == ["parked"] * 600)
    assert len(outbox.said) <= 3
    told = [number for _, data in outbox.said for first, last in data["sequences"] for number in range(first, last + 1)]
    assert sorted(told) == list(range(1, 601))


async def test_a_refused_event_announces_no_further_event() -> None:
    outbox = MemoryOutbox()
    outbox.put(f"{BASE}/event/audit", kind="event")
    async with scripted(lambda topic, _body: 0x87 if "/event/" in topic else 0x00) as broker, running(outbox, broker.port) as plant:
        await until(lambda: outbox.states() == ["parked"])
        await asyncio.sleep(0.2)
        assert len(outbox.entries) == 1 and plant.snapshot().refused == 1


async def test_never_more_unanswered_than_the_broker_allows() -> None:
    outbox = MemoryOutbox()
    for _ in range(100):
        outbox.put()
    async with scripted(lambda _topic, _body: 0x00, receive_maximum=5, delay_s=0.01) as broker, running(outbox, broker.port, window=50):
        await until(lambda: outbox.states() == ["delivered"] * 100)
        assert 3 <= broker.most <= 5


async def test_the_window_is_ours_where_the_broker_allows_more() -> None:
    outbox = MemoryOutbox()
    for _ in range(100):
        outbox.put()
    async with scripted(lambda _topic, _body: 0x00, delay_s=0.05) as broker, running(outbox, broker.port, window=30):
        await until(lambda: outbox.states() == ["delivered"] * 100)
        assert 28 <= broker.most <= 31  # and perhaps health


async def test_a_broker_that_acknowledges_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.plant.session.SILENT_S", 0.5)
    outbox, board = MemoryOutbox(), Board()
    outbox.put()
    answering = False

    def answer(topic: str, _body: bytes) -> int | None:
        return 0x00 if answering or "/result/" not in topic else None

    async with scripted(answer) as broker, running(outbox, broker.port, board):
        await until(lambda: broker.connections >= 2)
        assert any("acknowledged nothing" in cause for _, _, cause, _ in board.reports)
        answering = True
        await until(lambda: outbox.states() == ["delivered"])
