"""The rigs themselves: what they start is the real thing and behaves as their docstrings say."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from rigs.mosquitto import Broker
from rigs.processes import wait_until
from rigs.triton import ROOT, TritonServer

SCORES = [0.05, 0.8, 0.15]


def request_of(images: np.ndarray) -> triton_grpc.InferInput:
    request = triton_grpc.InferInput("INPUT", list(images.shape), "UINT8")
    request.set_data_from_numpy(images)
    return request


async def ask(address: str, model: str, images: np.ndarray) -> np.ndarray:
    async with triton_grpc.InferenceServerClient(address) as client:
        answer = await client.infer(model, [request_of(images)], client_timeout=20)
    scores = answer.as_numpy("PROBS")
    assert scores is not None
    return scores


async def test_the_real_triton_judges_images_that_come_over_the_socket(triton: TritonServer) -> None:
    triton.add_constant_model("rig_constant", SCORES)
    triton.load("rig_constant")
    scores = await ask(triton.grpc, "rig_constant", np.zeros((4, 100), np.uint8))
    assert scores.shape == (4, 3)
    assert np.allclose(scores, SCORES)
    wait_until(lambda: triton.inference_count("rig_constant") == 4, 5, "Triton has counted the four images")


async def test_the_real_triton_sees_the_bytes_of_each_image_in_shared_memory(triton: TritonServer) -> None:
    triton.add_fingerprint_model("rig_shm", dims=[8, 8])
    triton.load("rig_shm")
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8), np.uint8)
    region = shared_memory.create_shared_memory_region("rig", f"/edged_rig_{os.getpid()}", images.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [images])
        request = triton_grpc.InferInput("INPUT", [3, 8, 8], "UINT8")
        request.set_shared_memory("rig", images.nbytes)
        async with triton_grpc.InferenceServerClient(triton.grpc) as client:
            # never unregistered: right after an answer Triton may still hold it
            await client.register_system_shared_memory("rig", f"/edged_rig_{os.getpid()}", images.nbytes)
            answer = await client.infer("rig_shm", [request], client_timeout=20)
    finally:
        shared_memory.destroy_shared_memory_region(region)
    flat = images.reshape(3, -1)
    assert np.allclose(answer.as_numpy("PROBS"), np.stack([flat.mean(1), flat[:, 0], flat[:, -1]], axis=1))


async def test_a_model_that_nobody_loaded_is_not_served(triton: TritonServer) -> None:
    triton.add_constant_model("rig_unloaded", SCORES)
    with pytest.raises(InferenceServerException, match="rig_unloaded"):
        await ask(triton.grpc, "rig_unloaded", np.zeros((1, 4), np.uint8))
    triton.load("rig_unloaded")
    assert triton.ready("rig_unloaded")
    triton.unload("rig_unloaded")
    assert not triton.ready("rig_unloaded")


def test_a_model_that_cannot_load_is_refused_in_tritons_words(triton: TritonServer) -> None:
    triton.add_model("rig_broken", 'backend: "python"\n', {"model.py": "raise ValueError('no weights here')\n"})
    with pytest.raises(AssertionError, match="no weights here"):
        triton.load("rig_broken")


async def test_a_triton_killed_and_started_again_answers_on_the_same_ports(own_triton: Callable[..., TritonServer]) -> None:
    server = own_triton(start=False)
    server.add_constant_model("survivor", SCORES)
    server.start(load=["survivor"])
    before = server.grpc
    assert len(regions_of(server.launcher_pid)) == 1
    server.kill()
    assert regions_of(server.launcher_pid) == []
    server.restart(load=["survivor"])
    assert server.grpc == before
    assert np.allclose(await ask(server.grpc, "survivor", np.zeros((1, 4), np.uint8)), SCORES)


async def test_a_frozen_triton_answers_nothing_until_it_thaws(own_triton: Callable[..., TritonServer]) -> None:
    server = own_triton()
    async with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert await client.is_server_live()
        server.freeze()
        with pytest.raises((TimeoutError, InferenceServerException)):
            await asyncio.wait_for(client.is_server_live(client_timeout=1), 3)
        server.thaw()
        assert await client.is_server_live(client_timeout=20)


def regions_of(launcher_pid: int) -> list[str]:
    """The shared-memory files of the models that this launcher's server runs."""
    return [path.name for path in Path("/dev/shm").glob(f"triton_python_backend_shm_region_edged_*_{launcher_pid}_*")]


def test_the_launcher_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    def say(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "scripts/triton"), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        return ended.stderr.strip()

    assert say("--repository", str(tmp_path / "nowhere")).endswith("is not a folder")
    assert "run scripts/setup" in say("--repository", str(tmp_path), "--environment", str(tmp_path / "no-env"))


def test_the_triton_environment_has_a_numpy_whose_tensors_arrive(triton_environment: Path) -> None:
    """With numpy 2 the python backend answers tensors of zero bytes without any error."""
    version = subprocess.check_output([triton_environment / "bin/python", "-c", "import numpy; print(numpy.__version__)"], text=True)
    assert version.startswith("1.")


def test_a_broker_with_passwords_refuses_a_wrong_one_and_takes_the_right_one(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(users={"mes": "right"})
    with pytest.raises(AssertionError, match="Not authorized"):
        broker.listen("#", user="mes", password="wrong")
    with pytest.raises(AssertionError, match="Not authorized"):
        broker.listen("#")
    assert broker.listen("#", user="mes", password="right").messages == []


def test_a_broker_with_an_acl_passes_on_only_what_it_allows(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(users={"mes": "pw", "edged": "pw"}, acl="user mes\ntopic read plant/#\n\nuser edged\ntopic write plant/open/#\n")
    mes = broker.listen("plant/#", user="mes", password="pw")
    edged = broker.listen("nothing", user="edged", password="pw")
    edged.publish("plant/closed/1", b"no")
    edged.publish("plant/open/1", b"yes")
    assert [(m.topic, m.payload) for m in mes.wait_for(1)] == [("plant/open/1", b"yes")]


def test_retained_messages_survive_a_restart_but_not_a_kill(broker: Broker) -> None:
    broker.listen("none").publish("kept", b"1", retain=True)
    broker.restart()
    assert [(m.payload, m.retain) for m in broker.listen("#").wait_for(1)] == [(b"1", True)]
    broker.listen("none").publish("lost", b"2", retain=True)
    broker.kill()
    broker.start()
    assert [m.topic for m in broker.listen("#").wait_for(1)] == ["kept"]


def test_a_frozen_broker_answers_nobody_until_it_thaws(broker: Broker) -> None:
    mes = broker.listen("#")
    broker.freeze()
    with pytest.raises(RuntimeError, match="not"):
        mes.publish("x", b"1", timeout_s=0.5)
    broker.thaw()
    assert mes.wait_for(1)[0].payload == b"1"


def test_a_broker_names_the_largest_packet_it_takes(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(max_packet_size=2000)
    mes = broker.listen("#")
    mes.publish("small", b"x" * 1000)
    assert mes.wait_for(1)[0].topic == "small"
    assert mes.connack["MaximumPacketSize"] == 2000
