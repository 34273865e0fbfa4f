"""The journey's order and its exits, with hand-made rooms."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edged.backoff import Backoff
from edged.channel import Channel, ChannelClosed, Lanes
from edged.config import Combine, Recipe, Reference
from edged.errors import EdgedError, ModelMismatch, ModelOutputInvalid, Unavailable
from edged.holds import Holds
from edged.journey import Journey
from edged.nouns import (
    Die,
    Geometry,
    Identity,
    ImageFacts,
    InputPlan,
    Landing,
    ModelContract,
    ModelFacts,
    ModelOutputs,
    PagePart,
    PageResult,
    Recorded,
    Recording,
    Tensor,
    Verdict,
    VerdictKind,
)
from edged.pipeline import Pipeline
from edged.vision.outcomes import ChangedUnderway, Rejected

GEOMETRY = Geometry(1, 1, 0, 0, (0, 0, 4, 4))
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def landing(name: str = "a.png", camera: str = "cam1", recipe: str = "r", **changes: Any) -> Landing:
    facts = {"folder": "/drop", "size": 9, "mtime_ns": 1, "inode": 2, "identity": Identity(), "detected": NOW, "settle_ms": 5.0}
    return Landing(camera=camera, path=name.encode(), recipe=recipe, settled_monotonic=0.0, **{**facts, **changes})


class FakeVision:
    """A tensor for each model in every page's first part, then `late` parts of the last model's alone; `fails[name]` is raised instead."""

    def __init__(self, models: int = 1, pages: int = 1, late: int = 0) -> None:
        self.models, self.pages, self.late = models, pages, late
        self.fails: dict[str, Exception] = {}
        self.held: set[int] = set()
        self.sought: tuple[Path, ...] = ()
        self._slot = 0

    async def prepare(
        self, landing: Landing, recipe: str, plans: Sequence[InputPlan], reference: Sequence[Path]
    ) -> AsyncGenerator[PagePart, None]:
        self.sought = tuple(reference)
        if landing.name in self.fails:
            raise self.fails[landing.name]
        for page, part in itertools.product(range(self.pages), range(1 + self.late)):
            tensors = []
            for model in range(self.models) if part == 0 else [self.models - 1]:
                self._slot += 1
                self.held.add(self._slot)
                tensors.append(Tensor(model, np.zeros((1, 4, 4), np.uint8), GEOMETRY, "ring", self._slot, 0, 16))
            image = ImageFacts("ab" * 32, 9, "image/png", page, self.pages, 4, 4, 8, 1)
            yield PagePart(image, None, tuple(tensors), part == self.late, "hash", ("stretch",), {"decode": 1.0})

    def release(self, tensor: Tensor) -> None:
        self.held.remove(tensor.slot)


class FakeInference:
    """Every model answers 0.9, until `fails[(landing order)]` says otherwise."""

    def __init__(self, vision: FakeVision) -> None:
        self.vision = vision
        self.error: EdgedError | None = None
        self.asked: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def plans(self, recipe: str) -> tuple[InputPlan, ...]:
        return tuple(InputPlan(f"m{i}", None, (1, 4, 4)) for i in range(self.vision.models))

    def contracts(self, recipe: str) -> tuple[ModelContract, ...]:
        return tuple(
            ModelContract(f"m{i}", "1", "s", "classification", ("ok", "bad"), "ok", {"scores": "s"}) for i in range(self.vision.models)
        )

    async def infer(self, recipe: str, model: int, tensors: Sequence[Tensor]) -> ModelOutputs:
        self.asked.append(model)
        try:
            await self.gate.wait()
            if self.error:
                raise self.error
        finally:
            for tensor in tensors:
                self.vision.release(tensor)
        answer = MappingProxyType({"s": np.array([0.1, 0.9], np.float32)})
        return ModelOutputs(ModelFacts(f"m{model}", "1", "s"), (answer,), (GEOMETRY,), 0.5, 2.0)


class FakeIntake:
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.back: list[str] = []
        self.gone: list[str] = []

    def put_back(self, landing: Landing) -> None:
        self.back.append(landing.name)

    async def done(self, landing: Landing, recorded: Recorded) -> None:
        self.events.append(f"done {landing.name}")

    async def vanished(self, landing: Landing) -> None:
        self.gone.append(landing.name)


class FakeLedger:
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.pages: list[PageResult] = []
        self.error: EdgedError | None = None

    async def record(self, pages: Sequence[PageResult]) -> Recorded:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.pages += pages
        self.events.append(f"committed {pages[0].landing.name}")
        return Recorded(Recording.RECORDED, tuple("id" for _ in pages))


class FakeMetrics:
    def __init__(self) -> None:
        self.verdicts: list[str] = []

    def image_done(self, camera: str, outcome: str) -> None: ...
    def stage(self, stage: str, seconds: float) -> None: ...

    def verdict(self, kind: str) -> None:
        self.verdicts.append(kind)


class Rig:
    def __init__(self, models: int = 1, combine: Combine = Combine.ANY, pages: int = 1, gate: bool = True, late: int = 0) -> None:
        self.events: list[str] = []
        self.vision = FakeVision(models, pages, late)
        self.inference = FakeInference(self.vision)
        self.intake, self.ledger, self.metrics = FakeIntake(self.events), FakeLedger(self.events), FakeMetrics()
        self.now = 100.0
        recipes = [Recipe(name=name, models=tuple(f"m{i}" for i in range(models)), combine=combine) for name in ("r", "q")]
        self.holds = Holds(lambda _: True, backoff=Backoff(1.0, 8.0), monotonic=lambda: self.now, sample=lambda: 0.0)
        self.landings: Lanes[Landing] = Lanes(("r", "q"), lambda landing: landing.recipe, 8)
        self.judged: list[int] = []
        journey = Journey(
            recipes=recipes,
            vision=self.vision,
            inference=self.inference,
            judge=self._judge,
            gate=lambda *_: gate,
            monotonic=lambda: self.now,
        )
        self.journey = journey
        self.pipeline = Pipeline(
            landings=self.landings,
            journey=journey,
            intake=self.intake,
            rejudging=self.intake,
            ledger=self.ledger,
            metrics=self.metrics,
            holds=self.holds,
            workers=2,
            monotonic=lambda: self.now,
        )

    def _judge(self, recipe: Recipe, contracts: Sequence[ModelContract], outputs: Sequence[ModelOutputs], **_: Any) -> Verdict:
        self.judged.append(len(outputs))
        return Verdict(VerdictKind.FAIL, "class:bad", "r@1")

    async def run(self, *landings: Landing) -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(self.pipeline.run())
            for each in landings:
                await self.landings.send(each)
            await self.landings.close()


async def test_an_image_is_recorded_before_intake_hears_that_it_is_done() -> None:
    rig = Rig()
    await rig.run(landing())
    assert rig.events == ["committed a.png", "done a.png"]
    assert rig.ledger.pages[0].timing_ms["decode"] == 1.0
    assert not rig.vision.held


async def test_every_page_of_a_file_has_its_own_result_in_one_record() -> None:
    rig = Rig(pages=3)
    await rig.run(landing())
    assert [page.image.page for page in rig.ledger.pages] == [0, 1, 2]
    assert rig.events.count("committed a.png") == 1


@pytest.mark.parametrize("error", [Unavailable("triton", "it is away"), ModelMismatch("m0", "wrong shape")])
async def test_an_image_whose_model_cannot_answer_waits_in_its_folder_and_holds_only_its_own_recipe(error: EdgedError) -> None:
    rig = Rig()
    rig.inference.error = error
    await rig.run(landing())
    assert rig.intake.back == ["a.png"]
    assert not rig.ledger.pages
    assert not rig.vision.held
    assert rig.holds.active("cam1", "r")
    assert not rig.holds.active("cam1", "q")
    assert not rig.holds.active("cam2", "r")


async def test_a_held_image_is_not_even_decoded() -> None:
    rig = Rig()
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    await rig.run(landing())
    assert rig.intake.back == ["a.png"]
    assert not rig.inference.asked


async def test_a_hold_ends_by_itself_and_the_next_success_forgets_it() -> None:
    rig = Rig()
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    rig.now += 1.1
    assert not rig.holds.active("cam1", "r")
    await rig.run(landing())
    assert rig.holds.snapshot() == ()


async def test_after_a_hold_one_image_probes_and_the_others_wait_for_what_it_meets() -> None:
    rig = Rig()
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    rig.now += 1.1
    assert rig.holds.admit("cam1", "r", "first")
    assert not rig.holds.admit("cam1", "r", "second")
    assert rig.holds.admit("cam1", "q", "of another recipe")
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    rig.holds.returned("cam1", "r", "first")
    assert not rig.holds.admit("cam1", "r", "second")
    rig.now += 2.1
    assert rig.holds.admit("cam1", "r", "second")
    rig.holds.returned("cam1", "r", "second")  # it vanished, or changed: it says nothing of the peer
    assert rig.holds.admit("cam1", "r", "third")
    rig.holds.release("cam1", "r")
    assert rig.holds.admit("cam1", "r", "fourth")
    assert rig.holds.admit("cam1", "r", "fifth")


async def test_a_second_failure_holds_longer_than_the_first() -> None:
    rig = Rig()
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    first = rig.holds.snapshot()[0].until - rig.now
    rig.now += 1.1
    rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    assert rig.holds.snapshot()[0].until - rig.now == 2 * first


async def test_images_under_way_when_a_hold_begins_do_not_lengthen_it() -> None:
    rig = Rig()
    for _ in range(5):
        rig.holds.hold("cam1", "r", Unavailable("triton", "away"))
    assert rig.holds.snapshot()[0].attempt == 1


async def test_a_ledger_that_cannot_write_leaves_the_image_in_its_folder() -> None:
    rig = Rig()
    rig.ledger.error = Unavailable("the ledger", "disk full")
    await rig.run(landing())
    assert rig.intake.back == ["a.png"]
    assert "done a.png" not in rig.events


async def test_a_bad_image_is_an_error_verdict_recorded_like_any_other() -> None:
    rig = Rig()
    rig.vision.fails["a.png"] = Rejected("corrupt", "no decoder takes it", ImageFacts("cd" * 32, 9, None))
    await rig.run(landing())
    verdict = rig.ledger.pages[0].verdict
    assert (verdict.kind, verdict.reason) == (VerdictKind.ERROR, "corrupt")
    assert rig.metrics.verdicts == ["ERROR"]


async def test_an_image_that_intake_gave_up_keeps_intakes_reason() -> None:
    rig = Rig()
    rig.vision.fails["a.png"] = Rejected("corrupt", "half a file", ImageFacts("cd" * 32, 9, None))
    await rig.run(landing(rejected="truncated", rejected_detail="no growth for 300 s"))
    assert rig.ledger.pages[0].verdict.reason == "truncated"


async def test_answers_no_model_may_give_reject_the_image_and_not_the_model() -> None:
    rig = Rig()
    rig.inference.error = ModelOutputInvalid("m0", "NaN")
    await rig.run(landing())
    assert rig.ledger.pages[0].verdict.reason == "model-output"
    assert not rig.holds.snapshot()


async def test_a_file_that_changed_or_vanished_under_way_has_no_result() -> None:
    rig = Rig()
    rig.vision.fails = {"a.png": ChangedUnderway("a.png", "size"), "b.png": FileNotFoundError()}
    await rig.run(landing("a.png"), landing("b.png"))
    assert rig.intake.back == ["a.png"]
    assert rig.intake.gone == ["b.png"]
    assert not rig.ledger.pages


async def test_a_shut_gate_spares_the_second_model_and_frees_its_slot() -> None:
    rig = Rig(models=2, combine=Combine.CHAIN, gate=False)
    await rig.run(landing())
    assert rig.inference.asked == [0]
    assert rig.judged == [1]
    assert not rig.vision.held


async def test_an_open_gate_asks_the_second_model_too() -> None:
    rig = Rig(models=2, combine=Combine.CHAIN, gate=True)
    await rig.run(landing())
    assert rig.inference.asked == [0, 1]
    assert rig.judged == [2]
    assert not rig.vision.held


@pytest.mark.parametrize(
    ("combine", "gate", "asked"), [(Combine.ANY, True, [0, 1, 1, 1]), (Combine.CHAIN, True, [0, 1, 1, 1]), (Combine.CHAIN, False, [0])]
)
async def test_parts_of_a_page_that_hold_tiles_of_one_model_only_ask_that_one(combine: Combine, gate: bool, asked: list[int]) -> None:
    rig = Rig(models=2, combine=combine, gate=gate, late=2)
    await rig.run(landing())
    assert rig.inference.asked == asked
    assert len(rig.ledger.pages) == 1
    assert not rig.vision.held


async def test_a_first_model_that_fails_frees_the_slots_of_the_second() -> None:
    rig = Rig(models=2, combine=Combine.CHAIN)
    rig.inference.error = Unavailable("triton", "away")
    await rig.run(landing())
    assert not rig.vision.held


async def test_two_images_are_under_way_at_once() -> None:
    rig = Rig()
    rig.inference.gate.clear()
    running = asyncio.ensure_future(rig.run(landing("a.png"), landing("b.png")))
    while len(rig.inference.asked) < 2:
        await asyncio.sleep(0)
    assert rig.pipeline.in_flight == 2
    rig.inference.gate.set()
    await running
    assert rig.pipeline.in_flight == 0


async def test_a_verdict_under_way_is_written_even_when_the_daemon_is_told_to_go() -> None:
    rig = Rig()
    slow = asyncio.Event()
    record = rig.ledger.record

    async def slowly(pages: Sequence[PageResult]) -> Recorded:
        await slow.wait()
        return await record(pages)

    rig.ledger.record = slowly  # type: ignore[method-assign]
    running = asyncio.ensure_future(rig.run(landing()))
    while not rig.judged:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    running.cancel()
    asyncio.get_running_loop().call_later(0.02, slow.set)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rig.events == ["committed a.png"]


async def test_a_full_channel_blocks_its_sender_until_something_is_received() -> None:
    channel: Channel[int] = Channel(1)
    await channel.send(1)
    sending = asyncio.ensure_future(channel.send(2))
    await asyncio.sleep(0.01)
    assert not sending.done()
    assert await channel.receive() == 1
    await sending
    await channel.close()
    assert [item async for item in channel] == [2]
    with pytest.raises(ChannelClosed):
        await channel.send(3)


async def test_a_recipe_whose_model_does_not_answer_takes_neither_the_channel_nor_the_workers_of_another() -> None:
    rig = Rig()
    never = asyncio.Event()

    async def infer(recipe: str, model: int, tensors: Sequence[Tensor], answer: Any = rig.inference.infer) -> ModelOutputs:
        if recipe == "r":
            await never.wait()
        return await answer(recipe, model, tensors)

    rig.inference.infer = infer  # type: ignore[method-assign]

    async def flood() -> None:
        for n in range(20):
            await rig.landings.send(landing(f"{n}.png"))

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(rig.pipeline.run()), group.create_task(flood())]
        await asyncio.sleep(0.01)
        assert not tasks[1].done()
        await rig.landings.send(landing("other.png", recipe="q"))
        while "done other.png" not in rig.events:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
    assert rig.events == ["committed other.png", "done other.png"]


def test_delays_grow_to_their_cap_and_never_below_half_of_it() -> None:
    backoff = Backoff(first_s=1, cap_s=10)
    assert [backoff.delay_s(attempt, 1.0) for attempt in (1, 2, 3, 4, 5, 500)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay_s(5, 0.0) == 5


STORE = Recipe(name="r", models=("m0",), reference=Reference(store=Path("/store"), required="yes"))


@pytest.mark.parametrize(
    ("recipe", "die", "own", "sought", "missing"),
    [
        (STORE, Die(2, 3), None, 12, False),  # a decoder looks which of them is there
        (STORE, Die(), None, 0, True),
        (Recipe(name="r", models=("m0",), reference=Reference(store=Path("/store"))), Die(), None, 0, False),  # nobody requires it
        (Recipe(name="r", models=("m0",), reference=Reference(pattern="{stem}_temp.{ext}", required="yes")), Die(), None, 1, False),
        (Recipe(name="r", models=("m0",)), Die(2, 3), None, 0, False),
        (STORE, Die(), Path("/own.png"), 1, False),
    ],
)
async def test_the_journey_names_where_a_golden_reference_may_lie_and_never_looks(
    recipe: Recipe, die: Die, own: Path | None, sought: int, missing: bool
) -> None:
    told: list[bool] = []

    def judged(*_: Any, reference_missing: bool, **__: Any) -> Verdict:
        told.append(reference_missing)
        return Verdict(VerdictKind.PASS, "", "r@1")

    vision = FakeVision()
    rooms = {"vision": vision, "inference": FakeInference(vision), "judge": judged, "gate": lambda *_: True}
    journey = Journey(recipes=[recipe], reference=own, **rooms)
    await journey.judge(landing(identity=Identity(die=die)))
    assert len(vision.sought) == sought and told == [missing]
    assert own is None or vision.sought == (own,)
