"""How a batch of entries travels to Triton and what a failure means for the model, its endpoint and its callers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import grpc

from edged.errors import EdgedError, ModelOutputInvalid, Unavailable
from edged.inference.answers import Row, rows_of
from edged.inference.checks import Home
from edged.inference.client import CallFailed
from edged.inference.manifest import Manifest
from edged.inference.requests import RequestBytes
from edged.inference.slots import Entry


class Watch(Protocol):
    """The model's keeper, told what its requests meet."""

    @property
    def shut(self) -> bool: ...

    def gone(self) -> None: ...

    def failed(self, cause: str) -> None: ...

    def hangs(self) -> None: ...

    def answered(self) -> None: ...


class TritonExchange:
    """One model at one endpoint, as its batcher sees it."""

    def __init__(self, manifest: Manifest, requests: RequestBytes, home: Home, watch: Watch) -> None:
        self._manifest, self._requests, self._home, self._watch = manifest, requests, home, watch
        self._label = f"{manifest.name}:{manifest.version}"
        self.answered = watch.answered

    @property
    def shut(self) -> bool:
        return self._watch.shut

    def overdue(self, run: Sequence[Entry]) -> None:
        self._home.rings.owed(run)
        self._watch.hangs()

    def region(self, ring: str) -> str | None:
        return self._home.rings.region(ring)

    async def in_memory(self, region: str, run: Sequence[Entry], deadline_s: float) -> list[Row | ModelOutputInvalid]:
        first, nbytes = run[0].tensor, sum(entry.tensor.nbytes for entry in run)
        request = self._requests.in_memory(region, first.offset, nbytes, len(run))
        return rows_of(self._manifest, await self._home.client.infer(request, deadline_s), len(run))

    async def carried(self, run: Sequence[Entry], deadline_s: float) -> list[Row | ModelOutputInvalid]:
        request = self._requests.carrying([entry.tensor.array for entry in run])
        return rows_of(self._manifest, await self._home.client.infer(request, deadline_s), len(run))

    def lost(self, run: Sequence[Entry]) -> None:
        self._home.rings.lost(run)
        self._home.look()

    def failed(self, failure: CallFailed) -> EdgedError | CallFailed:
        """CallFailed: the model is gone, worth one more try after loading it; ModelOutputInvalid: it failed on these images."""
        if failure.unknown_model:
            self._watch.gone()
            return failure
        if failure.answered and "shared memory" in failure.message.lower():
            # never the image's fault; an unknown region only means that Triton was restarted between two looks
            if failure.unknown_region:
                self._home.rings.suspend()
            else:
                self._home.rings.refused(failure.message)
            self._home.look()
        elif failure.answered and failure.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
            return ModelOutputInvalid(self._label, failure.message)
        elif not failure.answered and failure.code is grpc.StatusCode.UNAVAILABLE:
            self._home.lost(failure.message)
        else:
            self._watch.failed(failure.message)
        return Unavailable("triton", failure.message)
