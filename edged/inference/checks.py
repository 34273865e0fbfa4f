"""Everything a model must pass before it is asked: loaded, its contract the manifest's, its golden images as expected."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edged.config import Triton
from edged.errors import ModelMismatch, ModelOutputInvalid
from edged.inference.answers import DTYPES, Row, rows_of
from edged.inference.client import CallFailed, TritonClient
from edged.inference.golden import Golden
from edged.inference.repository import Package
from edged.inference.requests import RequestBytes
from edged.inference.rings import Rings
from edged.inference.served_contract import require_match


class Home(Protocol):
    """The endpoint that serves the model."""

    live: bool
    rings: Rings

    @property
    def client(self) -> TritonClient: ...

    def lost(self, cause: str) -> None: ...

    def look(self) -> None: ...

    def changed(self) -> None: ...


class Checks:
    """The checks of one model at one endpoint. ModelMismatch: a check failed; CallFailed: there was no answer."""

    def __init__(self, package: Package, home: Home, golden: Golden, config: Triton, clock: Callable[[], float] = time.monotonic) -> None:
        self.package, self.golden = package, golden
        self.requests = RequestBytes(package.manifest)
        self._home, self._config, self._clock = home, config, clock
        self._name = package.manifest.triton_name
        self._passed = float("-inf")

    def golden_passed_since(self, then: float) -> bool:
        """The golden images were asked after `then`, and passed. An earlier pass says nothing: the model may be another one since."""
        return self._passed > then

    async def all(self) -> None:
        await self._load()
        require_match(self.package.manifest, await self._home.client.served(self._name))
        await self.golden_images()

    async def golden_images(self) -> None:
        """A package without golden images is asked about zeros: the answer must at least be sound."""
        began = self._clock()
        try:
            await self.golden.check(self._ask)
            if not self.golden.count:
                put = self.package.manifest.inputs[0]
                zeros = np.zeros(put.dims, np.uint8 if put.dtype == "UINT8" else DTYPES[put.dtype])
                answer = (await self._ask([zeros]))[0]
                if isinstance(answer, ModelOutputInvalid):
                    raise ModelMismatch(self.package.label, f"a probe of zeros: {answer.cause}")
        except CallFailed as failure:
            if failure.busy or not failure.answered:
                raise
            raise ModelMismatch(self.package.label, f"it fails on its golden images: {failure.message}", "Look at Triton's log.") from None
        self._passed = began

    async def _load(self) -> None:
        client = self._home.client
        try:
            await client.load(self._name, self._config.load_deadline_s)
        except CallFailed as failure:
            if not failure.answered:
                raise
            if "not allowed" in failure.message and await client.ready(self._name):
                return  # a server without explicit control, which serves it all the same
            missing = "failed to poll" in failure.message
            hint = "Let Triton serve the daemon's state_dir/models." if missing else "Look at Triton's log; deploy a package it can run."
            raise ModelMismatch(self.package.label, f"Triton cannot load it: {failure.message}", hint) from None

    async def _ask(self, arrays: Sequence[NDArray[Any]]) -> list[Row | ModelOutputInvalid]:
        response = await self._home.client.infer(self.requests.carrying(arrays), self._config.deadline_s)
        return rows_of(self.package.manifest, response, len(arrays))
