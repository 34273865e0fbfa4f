"""Triton killed, frozen, hanging: what waits is told in time, slots come back only when they are safe, and it heals by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from edged.errors import ModelOutputInvalid, Unavailable
from edged.inference.client import CallFailed, TritonClient
from edged.nouns import HealthStatus
from rigs.packages import Running, expected_scores, running, write_package
from rigs.triton import TritonServer

Start = Callable[..., TritonServer]


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    folder.mkdir()
    return folder


def rounded(first: int, second: int) -> list[float]:
    return [round(value, 4) for value in expected_scores(first, second)]


async def test_a_triton_killed_and_started_again_is_ready_by_itself_with_its_rings(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "reborn")
    async with running(server.grpc, server.repository, seed, ["reborn"]) as room:
        await room.ready("reborn")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        assert await room.scores("reborn", room.ring.tensor(0, 1, 2)) == rounded(1, 2)
        await asyncio.to_thread(server.kill)
        told = await room.until(lambda: room.board.items["triton"][0] is HealthStatus.DOWN)
        assert told < 5
        assert not room.inference.ready("reborn")
        with pytest.raises(Unavailable):
            await room.inference.infer("reborn", 0, [room.ring.tensor(1, 9)])
        await asyncio.to_thread(server.start)
        back = await room.ready("reborn")
        assert back < 5
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        assert await room.scores("reborn", room.ring.tensor(2, 33, 44)) == rounded(33, 44)
        assert room.ring.released == [0, 1, 2]


async def test_images_in_flight_when_triton_is_killed_are_told_so_and_their_slots_come_back_when_it_is_gone(
    own_triton: Start, seed: Path
) -> None:
    server = own_triton()
    write_package(seed, "struck", cost_s=1.0)
    async with running(server.grpc, server.repository, seed, ["struck"]) as room:
        await room.ready("struck")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        calls = [asyncio.create_task(room.scores("struck", room.ring.tensor(slot, slot))) for slot in range(6)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.kill)
        told = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert all(isinstance(error, Unavailable) for error in told)
        assert room.ring.released == []
        assert room.inference.endpoints()[0].blocked_slots == 6
        await asyncio.to_thread(server.start)
        await room.ready("struck")
        await room.until(lambda: sorted(room.ring.released) == list(range(6)))
        assert room.inference.endpoints()[0].blocked_slots == 0


async def test_a_frozen_triton_is_told_within_the_deadline_and_its_slots_wait_until_it_answers(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "frozen")
    async with running(server.grpc, server.repository, seed, ["frozen"], config={"deadline_s": 1.5}) as room:
        await room.ready("frozen")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        server.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await room.scores("frozen", room.ring.tensor(5, 5))
            assert time.monotonic() - began < 2.5
            await asyncio.sleep(10)  # by now the pings have told that the connection is dead
            assert room.ring.released == []
            assert room.board.items["triton"][0] is HealthStatus.DOWN
        finally:
            server.thaw()
        await room.until(lambda: room.ring.released == [5])
        await room.ready("frozen")
        assert await room.scores("frozen", room.ring.tensor(6, 60, 70)) == rounded(60, 70)


async def test_a_hanging_model_opens_its_circuit_alone_and_closes_it_when_it_answers_again(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "hanging")
    write_package(seed, "lively")
    async with running(server.grpc, server.repository, seed, ["hanging", "lively"], config={"deadline_s": 1.0}) as room:
        await room.ready("hanging")
        await room.ready("lively")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        stuck = asyncio.create_task(room.scores("hanging", room.ring.tensor(0, 253)))
        await asyncio.sleep(0.1)
        behind = [asyncio.create_task(room.scores("hanging", room.ring.tensor(slot, slot))) for slot in (1, 2, 3)]
        told = await asyncio.wait_for(asyncio.gather(stuck, *behind, return_exceptions=True), 3)
        assert all(isinstance(error, Unavailable) for error in told)
        assert not room.inference.ready("hanging")
        assert 0 not in room.ring.released
        circuits = {model.name: model.circuit for model in room.inference.snapshot()}
        assert circuits["hanging"] != "closed"
        assert circuits["lively"] == "closed"
        assert await room.scores("lively", room.ring.tensor(9, 1, 1)) == rounded(1, 1)
        assert room.board.items["triton"][3]["circuits_open"] == ["hanging:1"]
        await room.ready("hanging")
        await room.until(lambda: {0, 1, 2, 3, 9} == set(room.ring.released))
        assert await room.scores("hanging", room.ring.tensor(4, 40, 50)) == rounded(40, 50)


async def test_triton_restarted_between_two_looks_is_noticed_by_the_first_image(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "swift")
    async with running(server.grpc, server.repository, seed, ["swift"]) as room:
        await room.ready("swift")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        await asyncio.to_thread(lambda: (server.kill(), server.start(["swift__1"])))
        deadline = time.monotonic() + 10
        slot = 0
        while True:
            try:
                assert await room.scores("swift", room.ring.tensor(slot, slot, 3)) == rounded(slot, 3)
                break
            except Unavailable:
                slot += 1
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        await room.until(lambda: sorted(room.ring.released) == list(range(slot + 1)))


async def four_instances(room: Running, server: TritonServer, name: str) -> None:
    """One of them may hang while the golden images pass in another."""
    await room.ready(name)
    await room.until(lambda: room.inference.endpoints()[0].shared_memory)
    config = server.repository / f"{name}__1/config.pbtxt"
    text = config.read_text()
    config.write_text(text.replace("count: 1", "count: 4"))
    assert config.read_text() != text
    await asyncio.to_thread(server.load, f"{name}__1")


async def test_a_stuck_request_keeps_its_slot_and_an_alarm_while_the_others_go_on_beside_it(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "stuck")
    async with running(server.grpc, server.repository, seed, ["stuck"], config={"deadline_s": 1.0}) as room:
        await four_instances(room, server, "stuck")
        with pytest.raises(Unavailable):
            await room.scores("stuck", room.ring.tensor(0, 253))
        await room.ready("stuck", 2.5)
        for slot in range(1, 12):
            assert await room.scores("stuck", room.ring.tensor(slot, slot, 9)) == rounded(slot, 9)
        (model,) = room.inference.snapshot()
        assert (model.stuck, model.circuit, model.opened) == (1, "closed", 1)
        assert model.stuck_s >= 1
        assert 0 not in room.ring.released
        await room.until(lambda: room.board.items["triton"][0] is HealthStatus.DEGRADED)
        _, cause, hint, facts = room.board.items["triton"]
        assert "1 request(s) to stuck:1 at local unanswered for" in cause
        assert "1 slot stays blocked until Triton answers or restarts" in cause
        assert "restart Triton" in hint
        assert facts["stuck_requests"] == {"stuck:1@local": 1}
        assert room.board.items["recipe:stuck"][0] is HealthStatus.OK
        await room.until(lambda: sorted(room.ring.released) == list(range(12)))
        await room.until(lambda: room.board.items["triton"][0] is HealthStatus.OK)


async def test_with_every_slot_blocked_the_recipe_is_held_and_says_why_until_triton_answers(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "greedy")
    async with running(server.grpc, server.repository, seed, ["greedy"], config={"deadline_s": 1.0}, slots=2) as room:
        await four_instances(room, server, "greedy")
        calls = []
        for slot in (0, 1):
            calls.append(asyncio.create_task(room.scores("greedy", room.ring.tensor(slot, 253, slot))))
            await asyncio.sleep(0.05)
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, Unavailable) for error in told)
        await room.until(lambda: room.inference.snapshot()[0].exhausted and room.inference.snapshot()[0].circuit == "closed", 2.5)
        assert not room.inference.ready("greedy")
        assert "every slot is blocked" in room.inference.reason("greedy")
        await room.until(lambda: "every slot is blocked" in room.board.items["recipe:greedy"][1], 2.5)
        await room.ready("greedy")
        await room.until(lambda: sorted(room.ring.released) == [0, 1])
        await room.until(lambda: room.turned[-2:] == [("greedy", False), ("greedy", True)])


async def test_an_image_that_hangs_its_model_thrice_alone_is_to_blame_and_a_freeze_blames_nobody(own_triton: Start, seed: Path) -> None:
    server = own_triton()
    write_package(seed, "culprit")
    async with running(server.grpc, server.repository, seed, ["culprit"], config={"deadline_s": 1.0}) as room:
        await four_instances(room, server, "culprit")
        for _ in range(3):  # a frozen server is no image's fault
            server.freeze()
            try:
                with pytest.raises(Unavailable):
                    await room.scores("culprit", room.ring.tensor(20, 7, 7))
                room.ring.released.clear()
                await room.until(lambda: not room.inference.endpoints()[0].live, 12)
            finally:
                server.thaw()
            await room.ready("culprit")
            await room.until(lambda: room.ring.released == [20])
            room.ring.released.clear()
        assert await room.scores("culprit", room.ring.tensor(21, 7, 7)) == rounded(7, 7)
        hung, said = 0, ""
        for slot in range(10):
            await room.ready("culprit")
            try:
                await room.scores("culprit", room.ring.tensor(slot, 253, 1))
            except Unavailable:
                hung += 1
            except ModelOutputInvalid as error:
                said = str(error)
                break
        assert "no answer within 1 s, 3 times, to this image alone" in said
        assert hung == 4  # once in company, for all anybody knew, then three times alone
        assert await room.scores("culprit", room.ring.tensor(22, 8, 8)) == rounded(8, 8)


async def test_the_pings_tell_of_a_frozen_server_long_before_a_long_deadline(own_triton: Start) -> None:
    server = own_triton()
    client = TritonClient(server.grpc, 0)
    await client.live()
    server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(CallFailed) as failure:
            await client.load("anything", 60)
        took = time.monotonic() - began
    finally:
        server.thaw()
        await client.close()
    assert failure.value.code is grpc.StatusCode.UNAVAILABLE and not failure.value.answered
    assert took < 12, "a ping after 5 s, 3 s for its answer"


@pytest.mark.parametrize("away_s", [4, pytest.param(70, marks=[pytest.mark.long, pytest.mark.timeout(200)])])
async def test_after_an_outage_the_connection_stands_again_at_once(own_triton: Start, away_s: int) -> None:
    server = own_triton()
    client = TritonClient(server.grpc, 0)
    await client.live()
    await asyncio.to_thread(server.kill)
    end = time.monotonic() + away_s
    while time.monotonic() < end:
        with pytest.raises(CallFailed):
            await client.live()
        await asyncio.sleep(0.5)
    connecting = asyncio.create_task(client.connected())
    await asyncio.to_thread(server.start)
    began = time.monotonic()
    await asyncio.wait_for(connecting, 5)
    await client.live()
    assert time.monotonic() - began < 2, "1 s at most, and some for a busy machine"
    await client.close()
