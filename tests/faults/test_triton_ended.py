"""An image that ends Triton itself, not only its model: found out after three deaths. Whoever else ends Triton blames no image."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.prints import Prints, recipes_of, seed_of
from rigs.processes import wait_until
from rigs.station import Station
from rigs.triton import TritonServer

Start = Callable[..., Station]
ENDS_ON = 254
KILLER = """
import os, signal, time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb

def server():
    pid = os.getpid()
    while "tritonserver" not in Path(f"/proc/{pid}/cmdline").read_text().split(chr(0))[0]:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            images = pb.get_input_tensor_by_name(request, "image").as_numpy()
            flat = images.reshape(len(images), -1)
            if (flat[:, 0] == 254).any():
                os.kill(SERVER, signal.SIGKILL)
                time.sleep(60)
            time.sleep(0.02)
            first, second = flat[:, 0] / 255.0, flat[:, 1] / 255.0
            scores = np.stack([first, second, 1 - first], axis=1).astype(np.float32)
            answers.append(pb.InferenceResponse([pb.Tensor("scores", scores)]))
        return answers
"""


@contextmanager
def supervised(triton: TritonServer) -> Iterator[list[float]]:
    """Started anew whenever it ends, as systemd does; yields when it did."""
    ended: list[float] = []
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.1):
            if not Path(f"/proc/{triton.pid}").exists():
                ended.append(time.monotonic())
                triton.stop()  # what is left of it
                triton.start()

    thread = threading.Thread(target=keep, name="systemd", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join(60)


def is_ready(triton: TritonServer, model: str) -> bool:
    try:
        return triton.ready(model)
    except OSError:
        return False


def blamed(prints: Prints) -> dict[str, str]:
    return {name: data["reason"] for name, data in prints.results().items() if data["verdict"] == "ERROR"}


@pytest.mark.fault("an image that ends Triton", matrix=(28, 29))
def test_an_image_that_ends_triton_is_an_error_after_three_deaths_and_every_other_is_judged(
    start_station: Start, fault: Fault, tmp_path: Path
) -> None:
    seed = seed_of(tmp_path, {"ill": {"model": KILLER.replace("SERVER", "server()")}, "well": {}})
    cameras = {name: f'recipe = "{name}"' for name in ("ill", "well")}
    station = start_station(cameras=cameras, camera='after = "move"', toml=recipes_of(seed, ["ill", "well"]))
    prints = Prints(station)
    with supervised(station.triton) as ended:
        prints.drop("ill", 10)
        (culprit,) = prints.drop("ill", first=ENDS_ON)
        prints.drop("ill", 10)
        wait_until(lambda: bool(blamed(prints)), 120, "the image is found out")
        station.over()
        prints.drop("well", 10)
        recovered_s = station.settle(60)
        deaths = len(ended)
    assert blamed(prints) == {culprit: "model-output"}
    assert "Triton ended 3 times" in prints.results()[culprit]["detail"]
    assert prints.mixed_up() == []
    assert 3 <= deaths <= 10
    fault.row(how="kill -9 from its model", tally=station.tally(), recovered_s=recovered_s, note=f"ERROR after {deaths} deaths")


@pytest.mark.long
@pytest.mark.fault("Triton ended again and again by somebody else", matrix=(28,))
def test_a_triton_that_somebody_else_ends_again_and_again_blames_no_image(start_station: Start, fault: Fault, tmp_path: Path) -> None:
    seed = seed_of(tmp_path, {"ill": {"cost_s": 0.3, "max_batch_size": 2}})
    station = start_station(cameras={"ill": 'recipe = "ill"'}, camera='after = "move"', toml=recipes_of(seed, ["ill"]))
    prints = Prints(station)
    prints.drop("ill", 60)
    with supervised(station.triton) as ended:
        for death in range(8):
            wait_until(lambda: len(ended) == death and is_ready(station.triton, "ill__1"), 60, "the model is ready")  # noqa: B023
            time.sleep(0.5 + 0.2 * (death % 4))
            os.kill(station.triton.pid, signal.SIGKILL)
            wait_until(lambda: len(ended) == death + 1, 20, "it has ended")  # noqa: B023
        station.over()
        recovered_s = station.settle(120)
    assert blamed(prints) == {} and prints.mixed_up() == []
    fault.row(how="kill -9, 8 times", tally=station.tally(), recovered_s=recovered_s)
