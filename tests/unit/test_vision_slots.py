"""Rings and slots: circular order, first come first served, nothing lost; and what the daemon believes of a decoder's answer."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.decoder_images import plan
from edged.errors import Unavailable
from edged.nouns import Geometry, ImageFacts
from edged.vision.answers import sound
from edged.vision.ring import Ring
from edged.vision.slots import Slots
from edged.vision.wire import Job, geometry_to_wire, image_from_wire, image_to_wire


@pytest.fixture
def slots() -> Iterator[Slots]:
    made = Slots(4)
    yield made
    made.remove()


def test_slots_go_around_in_order_and_skip_those_still_held(slots: Slots) -> None:
    ring, new = slots.ring(plan())
    assert new and not slots.ring(plan())[1]
    assert ring.take(3) == [0, 1, 2]
    ring.give_back(1)
    assert ring.take(1) == [3] and ring.take(5) == [1] and ring.take(1) == []
    ring.give_back(2)
    ring.give_back(3)
    assert ring.take(2) == [2, 3]


def test_each_model_has_its_own_ring_and_recipes_share_it(slots: Slots) -> None:
    first, _ = slots.ring(plan(model="a"))
    assert slots.ring(plan(model="a", interpolation="linear"))[0] is first
    assert slots.ring(plan(model="b"))[0] is not first and slots.ring(plan(32, 32, model="a"))[0] is not first


def test_huge_tensors_get_few_slots_but_never_fewer_than_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, expected in ((1 << 20, 2), (1 << 18, 2), (2_000_000, 4)):
        monkeypatch.setattr("edged.vision.ring.MAX_RING_BYTES", limit)
        ring = Ring(plan(640, 640), 64, 900)
        ring.remove()
        assert (ring.facts.slots, ring.facts.nbytes) == (expected, expected * 409_600)


async def test_whoever_waits_for_two_models_does_not_hold_one_meanwhile(slots: Slots) -> None:
    a, b = slots.ring(plan(model="a"))[0], slots.ring(plan(model="b"))[0]
    held = b.take(4)
    both = asyncio.create_task(slots.acquire([(0, a, 1), (1, b, 1)]))
    await asyncio.sleep(0)
    assert a.free == 4
    slots.give_back(b, held[0])
    assert [plan_index for plan_index, _, _ in await both] == [0, 1]


async def test_a_cancelled_waiter_takes_nothing_along_even_when_it_had_just_been_served(slots: Slots) -> None:
    ring = slots.ring(plan())[0]
    held = ring.take(4)
    waiting = [asyncio.create_task(slots.acquire([(0, ring, 1)])) for _ in range(2)]
    await asyncio.sleep(0)
    slots.give_back(ring, held[0])
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert [slot for _, _, slot in await waiting[1]] == [held[0]]


def test_one_page_never_takes_more_than_half_a_ring(slots: Slots) -> None:
    ring = slots.ring(plan())[0]
    granted = asyncio.run(slots.acquire([(0, ring, 100)]))
    assert len(granted) == 2


JOB = Job(7, "/f", "a.png", 10, 1, 2, plans=0, done=(0,), slots=((0, 0, 3), (0, 0, 4)))
IMAGE = image_to_wire(ImageFacts("a" * 64, 10, "image/png", 0, 1, 64, 48, 8, 1))
GEOMETRY = geometry_to_wire(Geometry(1, 1, 0, 0, (0, 0, 64, 48)))
PAGE: dict[str, Any] = {
    "number": 7, "outcome": "page", "timing": {}, "image": IMAGE, "quality": [1.0, 2.0, 0.0, 0.0], "hash": "ab", "steps": ["gray"],
    "tensors": [[0, GEOMETRY], [1, GEOMETRY]], "need": [0], "more": False,
}  # fmt: skip


REJECTED: dict[str, Any] = {
    "number": 7, "outcome": "rejected", "timing": {}, "image": IMAGE, "reason": "corrupt", "detail": "x", "whole": False, "more": False,
}  # fmt: skip


def test_a_sound_answer_is_believed() -> None:
    assert sound({"answers": [REJECTED]}, [JOB]) and not sound({"answers": [REJECTED | {"need": [1]}]}, [JOB])
    assert not sound({"answers": [REJECTED | {"outcome": "vanished"}]}, [JOB])
    assert sound({"answers": [PAGE]}, [JOB])
    assert sound({"answers": [{"number": 7, "outcome": "vanished", "timing": {}, "detail": "gone"}]}, [JOB])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", 8), ("outcome", "exec"), ("outcome", None), ("image", None), ("image", IMAGE[:-1]), ("image", ["short", *IMAGE[1:]]),
        ("tensors", [[2, GEOMETRY]]), ("tensors", [[-1, GEOMETRY]]), ("tensors", [[0, GEOMETRY], [0, GEOMETRY]]), ("tensors", [[0, [1]]]),
        ("tensors", 5), ("need", [-1]), ("more", "yes"), ("quality", [1.0]), ("steps", [1]), ("hash", None), ("timing", []),
        ("need", [2, 0]), ("need", [10**7]), ("more", True), ("quality", [float("nan"), 0.0, 0.0, 0.0]), ("quality", [True, 0, 0, 0]),
        ("quality", ["1", 2, 3, 4]), ("timing", {"decode": "x"}), ("timing", {"decode": 1e400}), ("timing", {str(n): 1 for n in range(99)}),
        ("tensors", [[True, GEOMETRY]]), ("tensors", [[0, [*GEOMETRY[:4], [0, 0, 64, float("inf")], 0, 1]]]), ("hash", "x" * 65),
        ("tensors", [[0, [*GEOMETRY[:5], 3, 2]]]), ("steps", ["x" * 500]), ("steps", ["x"] * 5000),
        ("image", [*IMAGE[:4], 99, *IMAGE[5:7]]),
        ("image", ["A" * 64, *IMAGE[1:]]), ("image", [[0] * 64, *IMAGE[1:]]), ("image", [IMAGE[0], 2**70, *IMAGE[2:]]),
        ("image", [*IMAGE[:2], "text/html", *IMAGE[3:]]), ("image", [*IMAGE[:3], 1, *IMAGE[4:]]),
        ("image", [*IMAGE[:4], 2**40, *IMAGE[5:]]),
        ("image", [*IMAGE[:5], "64", *IMAGE[6:]]), ("image", [*IMAGE[:5], -1, *IMAGE[6:]]), ("image", [*IMAGE[:9], "2026-01-01", None]),
        ("image", [*IMAGE[:9], "yesterday", None]), ("image", [*IMAGE[:10], "x" * 100]),
    ],
)  # fmt: skip
def test_an_answer_bent_by_a_hostile_image_is_not_believed(key: str, value: Any) -> None:
    bent = copy.deepcopy(PAGE) | {key: value}
    assert not sound({"answers": [bent]}, [JOB])


@pytest.mark.parametrize(
    "message", [{}, {"answers": []}, {"answers": {}}, {"answers": [PAGE, PAGE]}, {"answers": [[]]}, {"answers": [None]}]
)
def test_a_message_that_is_no_answer_is_not_believed(message: dict[str, Any]) -> None:
    assert not sound(message, [JOB])


async def test_nobody_waits_for_a_slot_of_models_that_cannot_be_asked() -> None:
    slots = Slots(2)
    try:
        ring, _ = slots.ring(plan())
        taken = [await slots.acquire([(0, ring, 1)], "r") for _ in range(2)]
        waiting = [asyncio.ensure_future(slots.acquire([(0, ring, 1)], recipe)) for recipe in ("r", "q")]
        await asyncio.sleep(0)
        slots.in_vain("r", True)
        with pytest.raises(Unavailable):
            await waiting[0]
        with pytest.raises(Unavailable):
            await slots.acquire([(0, ring, 1)], "r")
        slots.give_back(*taken[0][0][1:])
        assert await waiting[1] == [(0, ring, taken[0][0][2])]
        slots.give_back(*taken[1][0][1:])
        assert await slots.acquire([(0, ring, 1)], "r")  # a free slot is had all the same
        slots.in_vain("r", False)
        later = asyncio.ensure_future(slots.acquire([(0, ring, 1)], "r"))
        await asyncio.sleep(0)
        assert not later.done()
        later.cancel()
    finally:
        slots.remove()


def test_a_page_that_asks_for_more_has_brought_something() -> None:
    assert sound({"answers": [PAGE | {"need": [2]}]}, [JOB])
    assert not sound({"answers": [PAGE | {"need": [2], "tensors": []}]}, [JOB])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda each: st.lists(each, max_size=4), max_leaves=8
)


@settings(max_examples=150)
@given(st.sampled_from(sorted(PAGE)), JSON, st.integers(0, 10), st.sampled_from(["page", "rejected"]))
def test_whatever_passes_has_the_types_that_the_daemon_works_with(key: str, value: Any, index: int, outcome: str) -> None:
    answer = copy.deepcopy(PAGE if outcome == "page" else REJECTED)
    part = answer.get(key)
    if isinstance(part, list) and part and index < len(part):
        part[index] = value
    else:
        answer[key] = value
    if not sound({"answers": [answer]}, [JOB]):
        return
    image = image_from_wire(answer["image"])
    assert type(image.sha256) is str and type(image.bytes) is int and image.pages <= 10_000 and image.page == 0
    assert all(type(n) in (int, type(None)) for n in (image.width, image.height, image.bits, image.channels))
    assert image.acquired is None or image.acquired.tzinfo is not None
    json.dumps(answer, allow_nan=False)
