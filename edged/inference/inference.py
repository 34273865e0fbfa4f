"""The room's front: recipes in, answers of their models out, whatever Triton does meanwhile.

Invariants
- Every tensor handed to `infer` has its slot released exactly once, when no Triton can touch it any more.
- A recipe is ready when one endpoint has all its models ready; the first endpoint that has them is asked, the local one first.
- Plans and contracts come from the verified live repository alone: they are known while Triton is away.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from edged.config import Models, Recipe, Triton
from edged.errors import ModelMismatch, Unavailable
from edged.inference import health
from edged.inference.connection import Endpoint
from edged.inference.golden import FindDefects, Golden, PrepareGolden
from edged.inference.manifest import Manifest
from edged.inference.recipe_models import RecipeModels
from edged.inference.repository import Package, Repository
from edged.inference.rings import RingFacts
from edged.inference.served import ServedModel
from edged.inference.slots import Release
from edged.inference.states import EndpointSnapshot, ModelSnapshot
from edged.nouns import LOCAL, Board, InputPlan, ModelContract, ModelFacts, ModelOutputs, Tensor

REPOSITORY_LOOK_S = 10.0
SPARE_BYTES = 1024 * 1024


class Inference:
    """An async context manager: entering seeds and verifies the repository; `run` keeps the connection.

    `release` is called once for every tensor, `turned(recipe, ready)` whenever a recipe's models become ready or no longer are.
    `prepare_golden` and `find_defects` are other rooms' eyes for the golden images.
    """

    def __init__(
        self,
        triton: Triton,
        models: Models,
        state_dir: Path,
        recipes: Sequence[Recipe],
        board: Board,
        *,
        prepare_golden: PrepareGolden,
        find_defects: FindDefects,
        release: Release,
        turned: Callable[[str, bool], None] = lambda _recipe, _ready: None,
        clock: Callable[[], float] = time.monotonic,
        sample: Callable[[], float] = random.random,
    ) -> None:
        self.release, self._turned = release, turned
        self._was_ready: dict[str, bool] = {}
        self._triton, self._board, self._clock, self._sample = triton, board, clock, sample
        self._repository = Repository(state_dir, models.repository, models.backend, models.allow_python)
        self._prepare_golden, self._find_defects = prepare_golden, find_defects
        self._recipes = {recipe.name: RecipeModels(recipe) for recipe in recipes}
        self._endpoints: tuple[Endpoint, ...] = ()
        self._group: asyncio.TaskGroup | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._early_rings: list[RingFacts] = []

    async def __aenter__(self) -> Self:
        """Unavailable if the live repository cannot be written."""
        await asyncio.to_thread(self._repository.refresh)
        self._resolve()
        self._endpoints = tuple(
            Endpoint(LOCAL if n == 0 else address, address, self._triton, self._report, self._sample)
            for n, address in enumerate(self._triton.endpoints)
        )
        for facts in self._early_rings:
            self.add_ring(facts)
        return self

    async def __aexit__(self, *_: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.close()

    # --- keeping the connection ------------------------------------------------------------------------------------------------
    async def run(self, stop: asyncio.Event) -> None:
        """Keeps Triton connected and the recipes' models ready until `stop`; a peer that is away is no error."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for endpoint in self._endpoints:
                self._keep(endpoint.run(), f"triton {endpoint.name}")
            self._keep(self._watch_repository(), "model repository")
            self._serve_resolved()
            await stop.wait()
            for keeper in self._keepers:
                keeper.cancel()
            await asyncio.wait(self._keepers)
            for endpoint in self._endpoints:
                await endpoint.close()

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._group is not None, "run() is not running"
        self._keepers.append(self._group.create_task(work, name=name))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        assert self._group is not None, "nothing is ready before run()"
        self._group.create_task(work, name=name)

    async def _watch_repository(self) -> None:
        """A package that a recipe misses may still come: look while there is such a recipe."""
        while True:
            await asyncio.sleep(REPOSITORY_LOOK_S)
            if any(models.problem for models in self._recipes.values()):
                await self._refresh()

    async def _refresh(self) -> None:
        try:
            await asyncio.to_thread(self._repository.refresh)
        except Unavailable as error:
            for name, models in self._recipes.items():
                if models.problem:
                    self._recipes[name] = replace(models, problem=ModelMismatch(name, error.cause, error.hint))
            return
        self._resolve()
        self._serve_resolved()
        self._report()

    def _resolve(self) -> None:
        self._recipes = {name: models.resolved(self._repository) for name, models in self._recipes.items()}

    def _serve_resolved(self) -> None:
        for models in self._recipes.values():
            for package in models.packages:
                for endpoint in self._endpoints:
                    self._serve(endpoint, package)

    def _serve(self, endpoint: Endpoint, package: Package) -> ServedModel:
        name = package.manifest.triton_name
        if name not in endpoint.models:
            endpoint.carry(_message_bytes(package.manifest))
            golden = Golden(package, self._prepare_golden, self._find_defects)
            model = ServedModel(package, endpoint, golden, self._triton, self._spawn, self._released, self._clock, self._sample)
            endpoint.models[name] = model
            self._keep(model.run(), f"model {package.label} at {endpoint.name}")
        return endpoint.models[name]

    def _released(self, tensor: Tensor) -> None:
        self.release(tensor)

    def add_ring(self, facts: RingFacts) -> None:
        """A ring of the decoders: registered wherever shared memory is possible. Until then its images travel as bytes."""
        if not self._endpoints:
            self._early_rings.append(facts)
        for endpoint in self._endpoints:
            endpoint.add_ring(facts)

    # --- what recipes need ---------------------------------------------------------------------------------------------------
    def ready(self, recipe: str) -> bool:
        return self._serving(self._recipes[recipe]) is not None

    def reason(self, recipe: str) -> str:
        """Why the recipe is not ready, one sentence; '' if it is."""
        return health.recipe_item(self._recipes[recipe].problem, self._rows(self._recipes[recipe])).cause

    def plans(self, recipe: str) -> tuple[InputPlan, ...]:
        """One for each of the recipe's models. ModelMismatch if one is not in the repository or does not fit the recipe."""
        return self._recipes[recipe].require().plans

    def contracts(self, recipe: str) -> tuple[ModelContract, ...]:
        return self._recipes[recipe].require().contracts()

    async def infer(self, recipe: str, model: int, tensors: Sequence[Tensor]) -> ModelOutputs:
        """What the recipe's model number `model` says of one page's tensors.

        Unavailable (Triton is away, hangs or is loading), ModelMismatch (the served model is not the recipe's), ModelOutputInvalid
        (three bad answers to this page while the golden images pass). Slots are released in every case.
        """
        try:
            models = self._recipes[recipe].require()
            endpoint = self._serving(models) or next((e for e in self._endpoints if e.live), self._endpoints[0])
            served = endpoint.models.get(models.triton_names[model])
            if served is None:
                raise Unavailable("triton", f"nobody has looked for Triton at {endpoint.address} yet")
            served.require_ready()
        except (ModelMismatch, Unavailable):
            for tensor in tensors:
                self.release(tensor)
            raise
        asked = await served.infer(tensors)
        manifest = served.package.manifest
        facts = ModelFacts(manifest.name, manifest.version, manifest.model_sha256, endpoint=endpoint.name)
        return ModelOutputs(facts, asked.rows, tuple(tensor.geometry for tensor in tensors), asked.queue_ms, asked.infer_ms)

    def _serving(self, models: RecipeModels) -> Endpoint | None:
        for endpoint in self._endpoints:
            served = [endpoint.models.get(name) for name in models.triton_names]
            if served and all(model is not None and model.ready for model in served):
                return endpoint
        return None

    # --- control and looking ---------------------------------------------------------------------------------------------------
    async def load(self, reference: str) -> ModelSnapshot:
        """Loads `name` or `name:version` at the local Triton and keeps it loaded. ModelMismatch or Unavailable if it cannot be."""
        await self._refresh()
        endpoint = self._endpoints[0]
        model = self._serve(endpoint, self._repository.package(reference))
        await model.keep()
        return self._snapshot(endpoint, model)

    async def unload(self, reference: str) -> ModelSnapshot:
        """Unloads it and leaves it so until `load`: recipes that name it are held. ModelMismatch if it is not known."""
        endpoint = self._endpoints[0]
        model = endpoint.models.get(self._repository.package(reference).manifest.triton_name)
        if model is None:
            raise ModelMismatch(reference, "it is not loaded", "Load it first.")
        await model.keep_out()
        return self._snapshot(endpoint, model)

    def snapshot(self) -> tuple[ModelSnapshot, ...]:
        """Every model of every endpoint."""
        return tuple(self._snapshot(endpoint, model) for endpoint in self._endpoints for model in endpoint.models.values())

    def endpoints(self) -> tuple[EndpointSnapshot, ...]:
        return tuple(endpoint.snapshot() for endpoint in self._endpoints)

    def packages(self) -> tuple[Manifest, ...]:
        """What lies in the live repository, served or not."""
        return tuple(package.manifest for package in self._repository.packages())

    def _snapshot(self, endpoint: Endpoint, model: ServedModel) -> ModelSnapshot:
        label = model.package.label
        recipes = tuple(n for n, m in self._recipes.items() if label in {p.label for p in m.packages})
        return health.model_snapshot(endpoint, model, recipes)

    def _rows(self, models: RecipeModels) -> list[list[ModelSnapshot]]:
        """For each endpoint the recipe's models there."""
        return [[self._snapshot(e, e.models[name]) for name in models.triton_names if name in e.models] for e in self._endpoints]

    def _report(self) -> None:
        for name in self._recipes:
            if (ready := self.ready(name)) is not self._was_ready.get(name):
                self._was_ready[name] = ready
                self._turned(name, ready)
        if not self._endpoints or not all(endpoint.looked for endpoint in self._endpoints):
            return  # nothing is known yet: no alarm at every start
        health.report_triton(self._board, self.endpoints(), self.snapshot())
        for name, models in self._recipes.items():
            health.report_recipe(self._board, name, models.problem, self._rows(models))


def _message_bytes(manifest: Manifest) -> int:
    """The larger of a full batch's request and answer."""
    put = manifest.inputs[0]
    asked = int(np.prod(put.dims)) * (1 if put.dtype == "UINT8" else 4)
    answered = sum(4 * int(np.prod(output.dims)) for output in manifest.outputs)
    return manifest.max_batch_size * max(asked, answered) + SPARE_BYTES
