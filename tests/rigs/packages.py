"""Small model packages and a ring of shared memory, for tests that ask the real Triton.

- `write_package`: a package whose own Python answers what its input tells it to, so that every caller can know its own answer
- `Ring`: a file below /dev/shm with slots, as the decoders make it; counts what was released
- `Running`: an Inference whose `run` runs, with a board that remembers
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import mmap
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.config import Models, Recipe, Triton
from edged.inference import Inference, PrepareGolden
from edged.nouns import Geometry, HealthStatus, InputPlan, Tensor
from edged.verdict import golden_defects

DIMS = (1, 32, 32)
WHOLE = Geometry(1.0, 1.0, 0.0, 0.0, (0.0, 0.0, 32.0, 32.0))

# scores = [first byte / 255, second byte / 255, 1 - first byte / 255]; 251: NaN; 252: an error; 253: hangs for 4 s
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({cost_s!r})
        answers = []
        for request in requests:
            images = pb.get_input_tensor_by_name(request, "image").as_numpy()
            flat = images.reshape(len(images), -1)
            first, second = flat[:, 0] / 255.0, flat[:, 1] / 255.0
            if (flat[:, 0] == 253).any():
                time.sleep(4)
            scores = np.stack([first, second, 1 - first], axis=1).astype(np.float32)
            scores[flat[:, 0] == 251] = np.nan
            if (flat[:, 0] == 252).any():
                answers.append(pb.InferenceResponse(error=pb.TritonError("poisoned")))
                continue
            answers.append(pb.InferenceResponse([pb.Tensor("scores", scores * np.float32({gain!r}))]))
        return answers
"""


def expected_scores(first: int, second: int) -> list[float]:
    return [first / 255, second / 255, 1 - first / 255]


def golden_png(first: int, second: int) -> bytes:
    image = np.zeros(DIMS[1:], np.uint8)
    image[0, 0], image[0, 1] = first, second
    return bytes(cv2.imencode(".png", image)[1])


def manifest_of(name: str, files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    """A manifest for the model above; `changes` replace its fields."""
    return {
        "schema": "urn:edged:schema:model-manifest:1.0",
        "name": name,
        "version": "1",
        "kind": "classification",
        "model": "1/model.py",
        "licence": "Apache-2.0",
        "classes": ["high", "second", "none"],
        "background": "none",
        "max_batch_size": 8,
        "inputs": [{"name": "image", "dtype": "UINT8", "dims": list(DIMS), "channels": ["gray"]}],
        "outputs": [{"name": "scores", "dtype": "FP32", "dims": [3], "role": "scores"}],
        "preprocess": {"colour": "gray", "fit": "none", "width_px": 32, "height_px": 32},
        "tolerance": {"score": 0.02, "box_px": 2.0},
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
        **changes,
    }


def write_package(
    repository: Path,
    name: str,
    *,
    cost_s: float = 0.0,
    gain: float = 1.0,
    model: str | None = None,
    golden: Sequence[tuple[int, int, Sequence[float]]] = ((200, 50, expected_scores(200, 50)),),
    **changes: Any,
) -> Path:
    """A complete package. `golden`: first byte, second byte, expected scores of each golden image. `gain` multiplies what it answers."""
    files: dict[str, bytes] = {"1/model.py": (model or MODEL.format(cost_s=cost_s, gain=gain)).encode()}
    images = []
    for n, (first, second, scores) in enumerate(golden):
        files[f"golden/{n}.png"] = golden_png(first, second)
        images.append({"file": f"golden/{n}.png", "reference": None, "scores": dict(zip(["high", "second", "none"], scores, strict=True))})
    if images:
        files["golden/expected.json"] = json.dumps({"images": images}).encode()
    manifest = manifest_of(name, files, **changes)
    folder = repository / f"{name}__{manifest['version']}"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def prepare_golden(path: Path, plans: Sequence[InputPlan], reference: Path | None) -> list[tuple[NDArray[Any], Geometry]]:
    """What the vision room does for an image that already has the input's size."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert reference is None
    return [(image[np.newaxis], WHOLE) for _ in plans]


class Ring:
    """`slots` slots of one input each. `tensor` fills a slot; `released` lists the slots that came back, in order."""

    numbers = itertools.count()

    def __init__(self, slots: int = 64, dims: tuple[int, int, int] = DIMS) -> None:
        nbytes = dims[0] * dims[1] * dims[2]
        self.dims = dims
        self.name = f"ring-{nbytes}"
        self.path = f"/dev/shm/edged_test_{os.getpid()}_{next(self.numbers)}"
        self.nbytes = slots * nbytes
        self.slot_bytes = nbytes
        self.released: list[int] = []
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o660)
        os.ftruncate(handle, self.nbytes)
        self._map = mmap.mmap(handle, self.nbytes)
        os.close(handle)
        self._bytes = np.frombuffer(self._map, np.uint8)

    def tensor(self, slot: int, first: int, second: int = 0) -> Tensor:
        offset = slot * self.slot_bytes
        array = self._bytes[offset : offset + self.slot_bytes]
        array[:2] = first, second
        view = array.reshape(self.dims)
        view.flags.writeable = False
        return Tensor(0, view, WHOLE, self.name, slot, offset, self.slot_bytes)

    def release(self, tensor: Tensor) -> None:
        assert tensor.slot not in self.released, "a slot came back twice"
        self.released.append(tensor.slot)

    def close(self) -> None:
        Path(self.path).unlink(missing_ok=True)


@dataclass
class Notes:
    """A health board that remembers the latest and every transition."""

    items: dict[str, tuple[HealthStatus, str, str, Mapping[str, Any]]] = field(default_factory=dict)
    history: list[tuple[str, HealthStatus, str]] = field(default_factory=list)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        before = self.items.get(name)
        if before is None or before[0] is not status:
            self.history.append((name, status, cause))
        self.items[name] = (status, cause, hint, facts)


@dataclass
class Running:
    inference: Inference
    board: Notes
    ring: Ring
    turned: list[tuple[str, bool]]

    async def until(self, true: Callable[[], bool], timeout_s: float = 20.0) -> float:
        """Seconds until `true()`; AssertionError with the board's words after `timeout_s`."""
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < timeout_s, f"still not after {timeout_s:g} s: {self.board.items}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def ready(self, recipe: str, timeout_s: float = 20.0) -> float:
        return await self.until(lambda: self.inference.ready(recipe), timeout_s)

    async def scores(self, recipe: str, tensor: Tensor) -> list[float]:
        outputs = await self.inference.infer(recipe, 0, [tensor])
        return [round(float(score), 4) for score in outputs.tiles[0]["scores"]]


@asynccontextmanager
async def running(
    address: str,
    repository: Path,
    seed: Path,
    recipes: Sequence[str],
    *,
    config: Mapping[str, Any] | None = None,
    slots: int = 64,
    prepare: PrepareGolden = prepare_golden,
    state_dir: Path | None = None,
) -> AsyncIterator[Running]:
    """An Inference at the Triton at `address`, which serves `repository`; each recipe has the one model of its name."""
    state_dir = state_dir or seed.parent / "state"
    state_dir.mkdir(exist_ok=True)
    if not (state_dir / "models").exists():
        (state_dir / "models").symlink_to(repository)
    board, ring, stop = Notes(), Ring(slots), asyncio.Event()
    turned: list[tuple[str, bool]] = []
    addresses = (address, *(config or {}).get("more", ()))
    triton = Triton(endpoints=addresses, **{key: value for key, value in (config or {}).items() if key != "more"})
    inference = Inference(
        triton,
        Models(repository=seed, allow_python=True),
        state_dir,
        [Recipe(name=name, models=(name,)) for name in recipes],
        board,
        prepare_golden=prepare,
        find_defects=golden_defects,
        release=ring.release,
        turned=lambda recipe, ready: turned.append((recipe, ready)),
    )
    try:
        async with inference:
            inference.add_ring(ring)
            task = asyncio.create_task(inference.run(stop), name="inference")
            try:
                yield Running(inference, board, ring, turned)
            finally:
                stop.set()
                await asyncio.wait_for(task, 20)
    finally:
        ring.close()
