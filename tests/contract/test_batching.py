"""Adaptive batching against the real Triton: fewer executions, every caller his own answer, nothing waits for company."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from edged.inference.client import Statistics, TritonClient
from rigs.packages import expected_scores, running, write_package
from rigs.triton import TritonServer


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    folder.mkdir()
    return folder


def rounded(first: int, second: int) -> list[float]:
    return [round(value, 4) for value in expected_scores(first, second)]


async def settled_statistics(client: TritonClient, model: str, inferences: int) -> Statistics:
    """Triton counts a moment after it has answered."""
    for _ in range(100):
        found = await client.statistics(model)
        if found.inferences >= inferences:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"Triton counts {found.inferences} inferences, not {inferences}")


@pytest.mark.parametrize("shared_memory", ["auto", "off"])
async def test_64_callers_at_once_are_served_in_few_executions_and_each_gets_his_own_answer(
    triton: TritonServer, seed: Path, shared_memory: str
) -> None:
    name = f"crowd_{shared_memory}"
    write_package(seed, name, cost_s=0.02)
    client = TritonClient(triton.grpc, 0)
    async with running(triton.grpc, triton.repository, seed, [name], config={"shared_memory": shared_memory}) as room:
        await room.ready(name)
        await room.until(lambda: room.inference.endpoints()[0].shared_memory is (shared_memory == "auto"))
        before = await settled_statistics(client, f"{name}__1", 10)  # warm-up 1 + 8, golden 1
        slots = list(range(64))
        random.Random(1).shuffle(slots)
        answers = await asyncio.gather(*(room.scores(name, room.ring.tensor(slot, slot, 200 - slot)) for slot in slots))
        assert answers == [rounded(slot, 200 - slot) for slot in slots]
        after = await settled_statistics(client, f"{name}__1", 74)
        assert after.inferences == 74
        assert after.executions - before.executions <= 16
        assert sorted(room.ring.released) == list(range(64))
    await client.close()


async def test_a_lone_image_goes_at_once_and_what_comes_meanwhile_goes_together(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "lone", cost_s=0.1)
    async with running(triton.grpc, triton.repository, seed, ["lone"]) as room:
        await room.ready("lone")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        began = room.inference.snapshot()[0].requests
        first = asyncio.create_task(room.scores("lone", room.ring.tensor(0, 1)))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(room.scores("lone", room.ring.tensor(1, 2)))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(room.scores("lone", room.ring.tensor(slot, slot))) for slot in range(2, 10)]
        await asyncio.sleep(0.01)
        assert (room.inference.snapshot()[0].in_flight, room.inference.snapshot()[0].waiting) == (2, 8)
        await asyncio.gather(first, second, *rest)
        assert room.inference.snapshot()[0].requests - began == 3


async def test_neighbours_share_a_request_and_slots_that_are_none_still_go_in_the_same_volley(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "gaps", cost_s=0.1)
    async with running(triton.grpc, triton.repository, seed, ["gaps"]) as room:
        await room.ready("gaps")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        began = room.inference.snapshot()[0].requests
        slots = [20, 2, 10, 0, 11, 30, 1]
        calls = [asyncio.create_task(room.scores("gaps", room.ring.tensor(slot, slot, 1))) for slot in slots]
        await asyncio.sleep(0.02)
        model = room.inference.snapshot()[0]
        assert (model.requests - began, model.in_flight, model.waiting) == (4, 1, 0)  # 0-2, 10-11, 20, 30
        assert await asyncio.gather(*calls) == [rounded(slot, 1) for slot in slots]


async def test_a_page_of_more_tiles_than_a_batch_comes_back_in_its_order(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "tiles")
    async with running(triton.grpc, triton.repository, seed, ["tiles"]) as room:
        await room.ready("tiles")
        slots = list(range(40))
        random.Random(2).shuffle(slots)
        outputs = await room.inference.infer("tiles", 0, [room.ring.tensor(slot, slot) for slot in slots])
        assert [round(float(tile["scores"][0]) * 255) for tile in outputs.tiles] == slots


async def test_a_caller_that_leaves_frees_his_slot_only_when_triton_has_answered(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "leaver", cost_s=0.3)
    async with running(triton.grpc, triton.repository, seed, ["leaver"]) as room:
        await room.ready("leaver")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        sent = []
        for slot in (0, 2):
            sent.append(asyncio.create_task(room.scores("leaver", room.ring.tensor(slot, slot))))
            await asyncio.sleep(0.02)
        waiting = [asyncio.create_task(room.scores("leaver", room.ring.tensor(slot, slot))) for slot in (4, 6)]
        await asyncio.sleep(0.05)
        sent[0].cancel()
        waiting[0].cancel()
        await asyncio.sleep(0.05)
        assert room.ring.released == [4]
        assert (await sent[1], await waiting[1]) == (rounded(2, 0), rounded(6, 0))
        assert sorted(room.ring.released) == [0, 2, 4, 6]
