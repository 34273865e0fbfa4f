"""One model version at one Triton: kept loaded, checked, and asked.

Invariants
- READY means: loaded, its contract equals the manifest's, its golden images pass, the circuit is closed. Nothing is asked otherwise.
- Whatever ends READY wakes the task in `run`, which brings the model up again by itself, with backoff.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import grpc

from edged.backoff import Backoff
from edged.config import Triton
from edged.errors import ModelMismatch, Unavailable
from edged.inference.asking import Asked, ask
from edged.inference.batching import Batcher, Spawn
from edged.inference.breaker import Breaker, Circuit
from edged.inference.checks import Checks, Home
from edged.inference.client import CallFailed
from edged.inference.exchange import TritonExchange
from edged.inference.golden import Golden
from edged.inference.repository import Package
from edged.inference.slots import Release
from edged.inference.states import EXHAUSTED, EXHAUSTED_HINT, ModelState
from edged.nouns import Tensor

LOOK_S = 2.0
BUSY_HINT = "Find out who else asks this Triton so much, or give the model more instances or a longer queue."
HANGS_HINT = "Look at Triton's log; restart Triton if it hangs."
_RETRY = Backoff(first_s=0.5, cap_s=3.0)
_MISMATCH = Backoff(first_s=1.0, cap_s=30.0)
"""A wrong model is loaded anew at each look, and only somebody's hand makes it right."""


class ServedModel:
    """`state`, `cause`, `hint`, `since` say how it is; `infer` asks it."""

    def __init__(
        self,
        package: Package,
        home: Home,
        golden: Golden,
        config: Triton,
        spawn: Spawn,
        release: Release,
        clock: Callable[[], float] = time.monotonic,
        sample: Callable[[], float] = random.random,
    ) -> None:
        manifest = package.manifest
        self.package, self.golden = package, golden
        self.checks = Checks(package, home, golden, config, clock)
        self.state, self.cause, self.hint = ModelState.WAITING, "", ""
        self.since = datetime.now(UTC)
        self.breaker = Breaker()
        self.images = 0
        exchange = TritonExchange(manifest, self.checks.requests, home, self)
        self.batcher = Batcher(package.label, exchange, spawn, manifest.max_batch_size, config.deadline_s, clock=clock)
        self._home, self._config, self._release, self._sample = home, config, release, sample
        self._name = manifest.triton_name
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._checking = asyncio.Lock()
        self._kept_out = False

    # --- its life ----------------------------------------------------------------------------------------------------------
    @property
    def ready(self) -> bool:
        return self.state is ModelState.READY and self.breaker.state is Circuit.CLOSED and not self.exhausted

    @property
    def shut(self) -> bool:
        return self.breaker.state is not Circuit.CLOSED

    @property
    def exhausted(self) -> bool:
        """Every slot that its images could lie in is blocked by a request that Triton has not answered."""
        return self._home.rings.exhausted(self.batcher.rings)

    async def run(self) -> None:
        """Keeps it ready for as long as it can be; ends only by cancellation."""
        attempt = 0
        while True:
            self._wake.clear()
            if self._kept_out:
                self._become(ModelState.UNLOADED, "it was unloaded on request", "Load it again.")
                await self._wake.wait()
            elif not self._home.live:
                attempt = 0
                await self._wake.wait()
            elif self.state is ModelState.READY and not self.shut and await self._still_there():
                attempt = 0
                await self._pause(LOOK_S)
            elif not await self._bring_up():
                attempt += 1
                backoff = _MISMATCH if self.state is ModelState.MISMATCH else _RETRY
                await self._pause(backoff.delay_s(attempt, self._sample()))

    def look(self) -> None:
        """Something changed: look at once."""
        self._wake.set()

    def away(self, cause: str) -> None:
        """The endpoint is away."""
        self.batcher.lost(Unavailable("triton", cause))
        if self.state is not ModelState.UNLOADED:
            self._become(ModelState.WAITING, f"Triton is away: {cause}", "Start Triton; the model is loaded as soon as it is there.")
        self.look()

    async def keep(self) -> None:
        """Loads it (again); returns when it is ready. ModelMismatch or Unavailable if it cannot be."""
        self._kept_out = False
        if self.state is not ModelState.READY and self._home.live:
            self._become(ModelState.LOADING)
        self.look()
        await self._settled(self._config.load_deadline_s)
        self.require_ready()

    async def keep_out(self) -> None:
        """Unloads it and leaves it so. Unavailable if Triton is away."""
        self._kept_out = True
        self._become(ModelState.UNLOADED, "it was unloaded on request", "Load it again.")
        try:
            await self._home.client.unload(self._name, self._config.load_deadline_s)
        except CallFailed as failure:
            raise Unavailable("triton", failure.message) from None
        finally:
            self.look()

    def require_ready(self) -> None:
        """ModelMismatch or Unavailable, with the reason, unless it is ready."""
        if self.ready:
            return
        if self.state in (ModelState.MISMATCH, ModelState.UNLOADED):
            raise ModelMismatch(self.package.label, self.cause, self.hint)
        if self.state is ModelState.READY and not self.shut:
            raise Unavailable("triton", f"model {self.package.label}: {EXHAUSTED}", EXHAUSTED_HINT)
        cause = f"model {self.package.label} is {self.state}" + (f": {self.cause}" if self.cause else "")
        raise Unavailable("triton", cause, self.hint)

    def _become(self, state: ModelState, cause: str = "", hint: str = "") -> None:
        if (state, cause) != (self.state, self.cause):
            if state is not self.state:
                self.since = datetime.now(UTC)
            self.state, self.cause, self.hint = state, cause, hint
            if state is not ModelState.LOADING:
                self._turned.set()
            self._home.changed()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _settled(self, seconds: float) -> None:
        """Waits until bringing it up came to an end, well or not."""
        try:
            async with asyncio.timeout(seconds):
                while self.state is ModelState.LOADING:
                    self._turned.clear()
                    await self._turned.wait()
        except TimeoutError:
            return

    # --- bringing it up ------------------------------------------------------------------------------------------------------
    async def _still_there(self) -> bool:
        try:
            there = await self._home.client.ready(self._name)
        except CallFailed as failure:
            if failure.answered:
                return False
            self._home.lost(failure.message)
            return True  # of the model itself nothing is known
        return there

    async def _bring_up(self) -> bool:
        if self.state not in (ModelState.HANGING, ModelState.MISMATCH):  # what is wrong stays told until it is right
            self._become(ModelState.LOADING)
        self.breaker.probe()
        try:
            if self.batcher.suspects.deaths and await self._home.client.ready(self._name):
                self.batcher.suspects.survived()  # a Triton that began anew has nothing loaded: only the connection was lost
            await self.checks.all()
        except ModelMismatch as error:
            if not self._kept_out:
                self._become(ModelState.MISMATCH, error.cause, error.hint)
            return False
        except CallFailed as failure:
            self.breaker.failed()
            if failure.busy:
                self._become(ModelState.HANGING, f"Triton refuses a probe: {failure.message}", BUSY_HINT)
            elif failure.answered or failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._become(ModelState.HANGING, f"no answer to a probe: {failure.message}", HANGS_HINT)
            else:
                self._home.lost(failure.message)
            return False
        if self._kept_out or not self._home.live:
            return True
        self.batcher.suspects.proven()
        self.breaker.succeeded()
        self._become(ModelState.READY)
        return True

    # --- asking it -----------------------------------------------------------------------------------------------------------
    async def infer(self, tensors: Sequence[Tensor]) -> Asked:
        """Rows for the tensors of one page. Unavailable, ModelMismatch, ModelOutputInvalid; every slot is released exactly once."""
        asked = await ask(self.package.label, self, self.batcher, tensors, self._release)
        self.images += len(asked.rows)
        return asked

    async def loaded_again(self) -> None:
        """After Triton said that it does not have it."""
        await self._settled(self._config.deadline_s)
        self.require_ready()

    async def golden_again(self, answered: float) -> None:
        """After a bad answer, which came at `answered`: is it the model? ModelMismatch if so; Unavailable if it cannot be asked."""
        async with self._checking:
            if self.checks.golden_passed_since(answered):
                return
            try:
                await self.checks.golden_images()
            except ModelMismatch as error:
                self._become(ModelState.MISMATCH, error.cause, error.hint)
                raise
            except CallFailed as failure:
                raise Unavailable("triton", failure.message) from None

    # --- what its requests meet ------------------------------------------------------------------------------------------------
    def gone(self) -> None:
        """Triton no longer has it."""
        if self.state is ModelState.READY:
            self._become(ModelState.LOADING, "Triton no longer had it")
        self.look()

    def failed(self, cause: str) -> None:
        """A request found Triton there but got no answer worth having."""
        if self.breaker.failed():
            self._open(f"{self.breaker.threshold} requests in a row failed: {cause}", BUSY_HINT)

    def hangs(self) -> None:
        """A request is overdue."""
        self.breaker.trip()
        self._open(f"a request has had no answer for {self._config.deadline_s:g} s", HANGS_HINT)

    def _open(self, cause: str, hint: str) -> None:
        if self.state is ModelState.READY:
            self._become(ModelState.HANGING, cause, hint)
        self.look()

    def answered(self) -> None:
        if self.state is ModelState.READY:
            self.breaker.succeeded()
        elif self.state is ModelState.HANGING:
            self.look()
