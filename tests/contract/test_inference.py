"""The inference room against the real Triton: loading, checks, shared memory, answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edged.config import Triton
from edged.errors import ModelMismatch, ModelOutputInvalid, Unavailable
from edged.inference import ModelState, probe
from edged.inference.client import TritonClient
from edged.nouns import HealthStatus
from edged.vision.offline import prepare_golden as vision_prepare_golden
from rigs.packages import Ring, expected_scores, running, write_package
from rigs.triton import ROOT, TritonServer

SHIPPED = ROOT / "model_repository"


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    folder = tmp_path / "seed"
    folder.mkdir()
    return folder


def rounded(first: int, second: int) -> list[float]:
    return [round(value, 4) for value in expected_scores(first, second)]


async def test_a_recipe_becomes_ready_by_itself_and_its_answers_come_through_shared_memory(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "plain")
    async with running(triton.grpc, triton.repository, seed, ["plain"]) as room:
        await room.ready("plain")
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        outputs = await room.inference.infer("plain", 0, [room.ring.tensor(3, 100, 7)])
        assert np.allclose(outputs.tiles[0]["scores"], expected_scores(100, 7), atol=1e-6)
        assert (outputs.model.name, outputs.model.version, outputs.model.endpoint) == ("plain", "1", "local")
        assert outputs.infer_ms > 0
        assert room.ring.released == [3]
        assert room.board.items["triton"][0] is HealthStatus.OK
        assert room.board.items["triton"][3]["shared_memory"] == {"local": "in use"}
        assert room.board.items["recipe:plain"][0] is HealthStatus.OK
        (model,) = room.inference.snapshot()
        assert (model.state, model.golden, model.circuit, model.recipes) == (ModelState.READY, 1, "closed", ("plain",))


async def test_bytes_and_shared_memory_give_the_same_answers(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "same")
    answers = []
    for shared_memory in ("auto", "off"):
        config = {"shared_memory": shared_memory}
        async with running(triton.grpc, triton.repository, seed, ["same"], config=config) as room:
            await room.ready("same")
            await room.until(lambda: room.inference.endpoints()[0].shared_memory is (shared_memory == "auto"))  # noqa: B023
            tensors = [room.ring.tensor(slot, slot * 3, slot) for slot in range(20)]
            answers.append(np.stack([tile["scores"] for tile in (await room.inference.infer("same", 0, tensors)).tiles]))
            assert sorted(room.ring.released) == list(range(20))
    assert np.array_equal(*answers)


async def test_a_ring_that_triton_cannot_map_costs_one_note_and_images_travel_as_bytes(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "unmapped")
    async with running(triton.grpc, triton.repository, seed, ["unmapped"]) as room:
        hidden = Ring(4)
        hidden.close()  # its file is gone
        hidden.name, hidden.path = "hidden", "/dev/shm/edged_test_not_there"
        room.inference.add_ring(hidden)
        await room.ready("unmapped")
        await room.until(lambda: room.board.items["triton"][0] is HealthStatus.DEGRADED)
        assert "cannot map the ring /edged_test_not_there" in room.board.items["triton"][1]
        assert "--ipc=host" in room.board.items["triton"][2]
        assert await room.scores("unmapped", hidden.tensor(1, 10, 20)) == rounded(10, 20)
        assert len([note for note in room.board.history if note[1] is HealthStatus.DEGRADED]) == 1


async def test_at_the_end_triton_holds_no_ring_of_ours(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "tidy")
    client = TritonClient(triton.grpc, 0)
    async with running(triton.grpc, triton.repository, seed, ["tidy"]) as room:
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        key = "/" + Path(room.ring.path).name
        assert key in (await client.regions()).values()
    assert key not in (await client.regions()).values()
    await client.close()


async def test_a_ring_left_registered_by_a_killed_daemon_is_taken_back(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "heir")
    client, left = TritonClient(triton.grpc, 0), Ring(4)
    await client.register("edged-ring-dead-1", "/" + Path(left.path).name, left.nbytes)
    left.close()
    async with running(triton.grpc, triton.repository, seed, ["heir"]) as room:
        await room.until(lambda: room.inference.endpoints()[0].shared_memory)
        assert "edged-ring-dead-1" not in await client.regions()
    await client.close()


WRONG = {
    "batch": ("wrong_batch", {"max_batch": 4}, "maximum batch of 4, the manifest says 8"),
    "input name": ("wrong_input", {"input_name": "picture"}, "no input image; it has: picture"),
    "output name": ("wrong_output", {"output_name": "other"}, "no output scores; it has: other"),
    "shape": (
        "wrong_shape",
        {"dims": (1, 16, 16)},
        "input image has the shape [-1, 1, 16, 16] at Triton, the manifest says [-1, 1, 32, 32]",
    ),
    "classes": ("wrong_classes", {"scores": (1.0, 0.0)}, "output scores has the shape [-1, 2] at Triton, the manifest says [-1, 3]"),
}


@pytest.mark.parametrize("name", list(WRONG))
async def test_a_served_model_that_is_not_the_packages_is_told_in_one_sentence(
    triton: TritonServer, seed: Path, tmp_path: Path, name: str
) -> None:
    model, served, sentence = WRONG[name]
    write_package(seed, model)
    defaults = {"scores": (0.5, 0.5, 0.5), "dims": (1, 32, 32), "max_batch": 8, "input_name": "image", "output_name": "scores"}
    triton.add_constant_model(f"{model}__1", **{**defaults, **served})
    (tmp_path / "elsewhere").mkdir()
    async with running(triton.grpc, tmp_path / "elsewhere", seed, [model]) as room:
        await room.until(lambda: sentence in room.inference.reason(model))
        assert not room.inference.ready(model)
        status, cause, hint, _ = room.board.items[f"recipe:{model}"]
        assert status is HealthStatus.DOWN
        assert "\n" not in cause
        assert hint
        with pytest.raises(ModelMismatch):
            await room.inference.infer(model, 0, [room.ring.tensor(0, 1)])
        assert room.ring.released == [0]


async def test_a_served_model_of_another_element_type_is_told(triton: TritonServer, seed: Path, tmp_path: Path) -> None:
    write_package(seed, "wrong_dtype")
    config = (
        'backend: "python"\nmax_batch_size: 8\n'
        'input [ { name: "image" data_type: TYPE_FP32 dims: [ 1, 32, 32 ] } ]\n'
        'output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] } ]\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n'
    )
    source = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
    triton.add_model("wrong_dtype__1", config, {"model.py": source})
    (tmp_path / "elsewhere").mkdir()
    async with running(triton.grpc, tmp_path / "elsewhere", seed, ["wrong_dtype"]) as room:
        await room.until(lambda: "input image is FP32 at Triton, the manifest says UINT8" in room.inference.reason("wrong_dtype"))


async def test_a_model_that_triton_does_not_have_is_told_with_what_to_do(triton: TritonServer, seed: Path, tmp_path: Path) -> None:
    write_package(seed, "absent")
    (tmp_path / "elsewhere").mkdir()
    async with running(triton.grpc, tmp_path / "elsewhere", seed, ["absent"]) as room:
        await room.until(lambda: "failed to poll from model repository" in room.inference.reason("absent"))
        assert "state_dir/models" in room.board.items["recipe:absent"][2]
        assert room.board.items["triton"][0] is HealthStatus.OK


async def test_a_model_that_fails_its_golden_image_is_never_asked(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "astray", gain=0.8)
    async with running(triton.grpc, triton.repository, seed, ["astray"]) as room:
        await room.until(lambda: "fails its golden image golden/0.png: high is 0.627, expected 0.784" in room.inference.reason("astray"))
        with pytest.raises(ModelMismatch):
            await room.inference.infer("astray", 0, [room.ring.tensor(0, 1)])


async def test_golden_expectations_that_cannot_be_used_hold_that_model_alone(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "unread", golden=[(1, 2, expected_scores(1, 2))], kind="classification")
    expected = b'{"images": [{"file": "golden/0.png", "defects": []}]}'
    folder = seed / "unread__1"
    (folder / "golden/expected.json").write_bytes(expected)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden/expected.json"] = hashlib.sha256(expected).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_package(seed, "read")
    async with running(triton.grpc, triton.repository, seed, ["unread", "read"]) as room:
        await room.until(lambda: "golden/expected.json gives no scores for golden/0.png" in room.inference.reason("unread"))
        await room.ready("read")


async def test_nan_for_one_image_is_that_images_fault_after_three_tries_and_takes_no_other_with_it(
    triton: TritonServer, seed: Path
) -> None:
    write_package(seed, "nan")
    async with running(triton.grpc, triton.repository, seed, ["nan"]) as room:
        await room.ready("nan")
        before = (await room.inference.load("nan")).requests
        good, bad = room.ring.tensor(0, 20, 30), room.ring.tensor(1, 251)
        answers = await asyncio.gather(room.scores("nan", good), room.scores("nan", bad), return_exceptions=True)
        assert answers[0] == rounded(20, 30)
        assert isinstance(answers[1], ModelOutputInvalid)
        assert "NaN" in str(answers[1])
        assert sorted(room.ring.released) == [0, 1]
        assert room.inference.ready("nan")
        assert room.inference.snapshot()[0].requests - before == 3


async def test_an_image_on_which_the_model_fails_takes_no_other_with_it(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "poison")
    async with running(triton.grpc, triton.repository, seed, ["poison"]) as room:
        await room.ready("poison")
        tensors = [room.ring.tensor(slot, 252 if slot == 2 else slot) for slot in range(6)]
        answers = await asyncio.gather(*(room.scores("poison", tensor) for tensor in tensors), return_exceptions=True)
        assert isinstance(answers.pop(2), ModelOutputInvalid)
        assert answers == [rounded(slot, 0) for slot in (0, 1, 3, 4, 5)]
        assert sorted(room.ring.released) == list(range(6))


async def test_a_model_that_turned_bad_is_held_by_its_golden_image_and_no_image_is_blamed(
    own_triton: Callable[..., TritonServer], seed: Path
) -> None:
    server = own_triton()
    folder = write_package(seed, "turned")
    async with running(server.grpc, server.repository, seed, ["turned"]) as room:
        await room.ready("turned")
        live = server.repository / "turned__1/1/model.py"
        live.write_text(live.read_text().replace("np.float32(1.0)", "np.float32(np.nan)"))
        assert live.read_text() != (folder / "1/model.py").read_text()
        await asyncio.to_thread(server.load, "turned__1")
        with pytest.raises(ModelMismatch, match="golden image"):
            await room.inference.infer("turned", 0, [room.ring.tensor(0, 9)])
        assert not room.inference.ready("turned")
        assert room.ring.released == [0]


async def test_a_model_unloaded_behind_our_back_is_loaded_again_and_nobody_notices(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "stolen")
    async with running(triton.grpc, triton.repository, seed, ["stolen"]) as room:
        await room.ready("stolen")
        await asyncio.to_thread(triton.unload, "stolen__1")
        assert await room.scores("stolen", room.ring.tensor(0, 77, 1)) == rounded(77, 1)
        assert await asyncio.to_thread(triton.ready, "stolen__1")


async def test_unload_on_request_holds_the_recipe_until_load(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "resting")
    async with running(triton.grpc, triton.repository, seed, ["resting"]) as room:
        await room.ready("resting")
        assert (await room.inference.unload("resting")).state is ModelState.UNLOADED
        assert "unloaded on request" in room.inference.reason("resting")
        assert not await asyncio.to_thread(triton.ready, "resting__1")
        with pytest.raises(ModelMismatch, match="unloaded on request"):
            await room.inference.infer("resting", 0, [room.ring.tensor(0, 1)])
        assert (await room.inference.load("resting:1")).state is ModelState.READY
        assert room.inference.ready("resting")


async def test_plans_are_known_while_triton_is_away_and_images_are_refused_not_lost(seed: Path, tmp_path: Path) -> None:
    write_package(seed, "early")
    (tmp_path / "nobody").mkdir()
    async with running("127.0.0.1:9", tmp_path / "nobody", seed, ["early"]) as room:
        assert room.inference.plans("early")[0].dims == (1, 32, 32)
        assert room.inference.contracts("early")[0].classes == ("high", "second", "none")
        await room.until(lambda: "triton" in room.board.items)
        assert room.board.items["triton"][0] is HealthStatus.DOWN
        assert "127.0.0.1:9 is away" in room.board.items["triton"][1]
        with pytest.raises(Unavailable):
            await room.inference.infer("early", 0, [room.ring.tensor(0, 1)])
        assert room.ring.released == [0]


async def test_a_package_that_comes_later_is_found_on_load(triton: TritonServer, seed: Path) -> None:
    async with running(triton.grpc, triton.repository, seed, ["late"]) as room:
        with pytest.raises(ModelMismatch, match="not in the model repository"):
            room.inference.plans("late")
        await room.until(lambda: "recipe:late" in room.board.items)
        assert room.board.items["recipe:late"][0] is HealthStatus.DOWN
        write_package(seed, "late")
        assert (await room.inference.load("late")).state is ModelState.READY
        assert room.inference.ready("late")


async def test_a_model_with_larger_images_that_comes_later_gets_a_channel_wide_enough(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "small")
    async with running(triton.grpc, triton.repository, seed, ["small", "large"], config={"shared_memory": "off"}) as room:
        await room.ready("small")
        large = {"dims": [1, 1024, 1024], "name": "image", "dtype": "UINT8", "channels": ["gray"]}
        write_package(seed, "large", golden=(), inputs=[large], preprocess={"fit": "none", "width_px": 1024, "height_px": 1024})
        await room.inference.load("large")
        ring = Ring(8, (1, 1024, 1024))
        outputs = await room.inference.infer("large", 0, [ring.tensor(slot, slot, 5) for slot in range(8)])
        assert [round(float(tile["scores"][0]) * 255) for tile in outputs.tiles] == list(range(8))
        assert await room.scores("small", room.ring.tensor(20, 4, 5)) == rounded(4, 5)
        ring.close()


async def test_the_second_endpoint_answers_while_the_first_is_away(triton: TritonServer, seed: Path) -> None:
    write_package(seed, "fallback")
    config = {"more": (triton.grpc,)}
    async with running("127.0.0.1:9", triton.repository, seed, ["fallback"], config=config) as room:
        await room.ready("fallback")
        outputs = await room.inference.infer("fallback", 0, [room.ring.tensor(0, 5, 6)])
        assert outputs.model.endpoint == triton.grpc
        assert room.board.items["triton"][0] is HealthStatus.DEGRADED
        assert room.board.items["recipe:fallback"][0] is HealthStatus.DEGRADED


@pytest.mark.parametrize("package", sorted(path.name for path in SHIPPED.glob("*__*")))
async def test_a_shipped_model_passes_its_golden_images_as_vision_prepares_them(triton: TritonServer, tmp_path: Path, package: str) -> None:
    name = package.rpartition("__")[0]
    state_dir = tmp_path / "state"
    async with running(triton.grpc, triton.repository, SHIPPED, [name], prepare=vision_prepare_golden, state_dir=state_dir) as room:
        await room.ready(name)
        (model,) = room.inference.snapshot()
        assert model.golden >= 3


def test_the_probe_says_who_answers_or_why_nobody_does(triton: TritonServer) -> None:
    assert probe(triton.grpc).alive
    assert "triton" in probe(triton.grpc).says
    assert not probe("127.0.0.1:9").alive
    assert Triton().deadline_s == 10.0
