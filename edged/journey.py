"""One landing, from vision to its verdicts: decoded, prepared, inferred, judged. Nothing is recorded here, so `edged infer` shares it.

Invariants
- Every tensor's slot is freed exactly once: by inference once it was asked, else here.
- An answer that no model may give (NaN, a wrong shape) comes as ModelOutputInvalid only after inference tried again and the model's
  golden images passed: then it is this page's fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from edged.config import Combine, Recipe
from edged.errors import ModelOutputInvalid
from edged.failpoints import reach
from edged.intake.reference import reference_candidates
from edged.nouns import (
    LOCAL,
    Frame,
    ImageFacts,
    InputPlan,
    Landing,
    ModelContract,
    ModelOutputs,
    PagePart,
    PageResult,
    Quality,
    Tensor,
    Verdict,
    VerdictKind,
)
from edged.verdict import join_parts
from edged.vision.outcomes import ChangedUnderway, Rejected

log = structlog.get_logger("edged.journey")


class Vision(Protocol):
    def prepare(
        self, landing: Landing, recipe: str, plans: Sequence[InputPlan], reference: Sequence[Path]
    ) -> AsyncGenerator[PagePart, None]: ...
    def release(self, tensor: Tensor) -> None: ...


class Inference(Protocol):
    def plans(self, recipe: str) -> tuple[InputPlan, ...]: ...
    def contracts(self, recipe: str) -> tuple[ModelContract, ...]: ...
    async def infer(self, recipe: str, model: int, tensors: Sequence[Tensor]) -> ModelOutputs: ...


class Judge(Protocol):
    def __call__(
        self,
        recipe: Recipe,
        contracts: Sequence[ModelContract],
        outputs: Sequence[ModelOutputs],
        *,
        width: int,
        height: int,
        frame: Frame | None,
        complete: bool,
        quality: Quality | None,
        recipe_known: bool,
        reference_missing: bool,
    ) -> Verdict: ...


class Gate(Protocol):
    def __call__(self, recipe: Recipe, contract: ModelContract, outputs: ModelOutputs) -> bool: ...


@dataclass(slots=True)
class _Page:
    """One page under way: what each model said of the parts so far."""

    outputs: list[list[ModelOutputs]]
    timing_ms: dict[str, float] = field(default_factory=dict)
    rejected: tuple[str, str] | None = None
    missing: bool = False  # the golden reference
    gate: bool = False  # of a chain: the first model called for the others, by its last answer

    def spent(self, stage: str, ms: float) -> None:
        self.timing_ms[stage] = self.timing_ms.get(stage, 0.0) + ms


class Journey:
    """`reference`: the golden reference of every image, in place of what the recipe says."""

    def __init__(
        self,
        *,
        recipes: Sequence[Recipe],
        vision: Vision,
        inference: Inference,
        judge: Judge,
        gate: Gate,
        reference: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        utcnow: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._recipes = {recipe.name: recipe for recipe in recipes}
        self._vision, self._inference, self._judge, self._gate = vision, inference, judge, gate
        self._reference, self._monotonic, self._utcnow = reference, monotonic, utcnow
        self.advanced = monotonic()
        """When the models last answered for a part of a page: one image of a thousand tiles advances without finishing."""

    async def judge(self, landing: Landing) -> list[PageResult]:
        """One result a page.

        Raises Unavailable or ModelMismatch (hold the recipe), ChangedUnderway, FileNotFoundError.
        """
        recipe = self._recipes[landing.recipe]
        plans, contracts = self._inference.plans(recipe.name), self._inference.contracts(recipe.name)
        results: list[PageResult] = []
        page: _Page | None = None
        references = self._golden(landing, recipe)
        try:
            async with aclosing(self._vision.prepare(landing, recipe.name, plans, references)) as parts:
                async for part in parts:
                    reach("image.decoded", landing.path)
                    page = page or _Page([[] for _ in contracts], missing=recipe.reference is not None and not references)
                    await self._infer_part(landing, recipe, contracts, page, part)
                    self.advanced = self._monotonic()
                    reach("image.inferred", landing.path)
                    if part.last:
                        results.append(self._judge_page(landing, recipe, contracts, page, part))
                        page = None
        except Rejected as error:
            # A multi-page file that breaks half way is one ERROR for the file.
            reason, detail = (landing.rejected or error.reason), (landing.rejected_detail or error.detail)
            # A file whose bytes nobody could read has no hash; its name, size and mtime still are its identity.
            image = error.image or ImageFacts("", landing.size, None)
            results = [self._error(landing, image, None, reason, detail)]
        if landing.again is not None and any(result.image.sha256 != landing.again.sha256 for result in results):
            raise ChangedUnderway(landing.name, "its content is no longer the judged one")
        return results

    def _golden(self, landing: Landing, recipe: Recipe) -> tuple[Path, ...]:
        """Where the golden reference may lie. The decoder process finds out whether it does: a share may hang."""
        return reference_candidates(landing, recipe) if self._reference is None else (self._reference,)

    async def _infer_part(self, landing: Landing, recipe: Recipe, contracts: Sequence[ModelContract], page: _Page, part: PagePart) -> None:
        """Asks the recipe's models about the part's tensors, in a chain only as far as the first one lets it."""
        for stage, ms in part.timing_ms.items():
            page.spent(stage, ms)
        page.rejected = page.rejected or (landing.rejected and (landing.rejected, landing.rejected_detail)) or part.rejected
        if page.rejected:
            self._free(part.tensors)
            return
        by_model = {index: tuple(t for t in part.tensors if t.model == index) for index in range(len(contracts))}
        # Of a page in several parts, a later one may hold no tensor of some model.
        asked = {index: tensors for index, tensors in by_model.items() if tensors}
        gated = {i: asked.pop(i) for i in list(asked) if i > 0} if recipe.combine is Combine.CHAIN else {}
        try:
            answers = await self._ask(recipe, asked)
            if 0 in answers:
                page.gate = self._gate(recipe, contracts[0], answers[0])
            if page.gate:
                asked, gated = gated, {}
                answers |= await self._ask(recipe, asked)
        except ModelOutputInvalid as error:
            page.rejected = ("model-output", f"{error}; the model's golden images pass")
            return
        finally:
            self._free(t for tensors in gated.values() for t in tensors)
        for index, answer in answers.items():
            page.outputs[index].append(answer)
        page.spent("queue", max((answer.queue_ms for answer in answers.values()), default=0.0))
        page.spent("infer", max((answer.infer_ms for answer in answers.values()), default=0.0))

    async def _ask(self, recipe: Recipe, tensors: Mapping[int, Sequence[Tensor]]) -> dict[int, ModelOutputs]:
        """Every model's answer by its index. Every call runs to its end, since each owns slots; then the first failure is raised."""
        calls = [self._inference.infer(recipe.name, index, each) for index, each in tensors.items()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        found: dict[int, ModelOutputs] = {}
        for index, answer in zip(tensors, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found[index] = answer
        return found

    def _judge_page(self, landing: Landing, recipe: Recipe, contracts: Sequence[ModelContract], page: _Page, part: PagePart) -> PageResult:
        if page.rejected:
            return self._error(landing, part.image, part.quality, *page.rejected)
        began = self._monotonic()
        outputs = [join_parts(answers) for answers in page.outputs if answers]
        identity = landing.identity
        required = recipe.reference is not None and recipe.reference.required == "yes"
        verdict = self._judge(
            recipe,
            contracts[: len(outputs)],
            outputs,
            width=part.image.width or 0,
            height=part.image.height or 0,
            frame=identity.frame,
            complete=identity.material.complete,
            quality=part.quality,
            recipe_known=identity.recipe is None or identity.recipe in self._recipes,
            reference_missing=required and (page.missing or "reference-missing" in part.preprocess_steps),
        )
        page.spent("verdict", (self._monotonic() - began) * 1000)
        return self._result(landing, part.image, part.quality, verdict, part, page.timing_ms)

    def _error(self, landing: Landing, image: ImageFacts, quality: Quality | None, reason: str, detail: str) -> PageResult:
        log.info("journey.rejected", image=landing.name, camera=landing.camera, page=image.page, reason=reason, detail=detail)
        recipe = self._recipes[landing.recipe]
        verdict = Verdict(VerdictKind.ERROR, reason, f"{recipe.name}@{recipe.rules.version}", detail=detail)
        return self._result(landing, image, quality, verdict, None, {})

    def _result(
        self,
        landing: Landing,
        image: ImageFacts,
        quality: Quality | None,
        verdict: Verdict,
        part: PagePart | None,
        timing_ms: dict[str, float],
    ) -> PageResult:
        total_ms = landing.settle_ms + (self._monotonic() - landing.settled_monotonic) * 1000
        return PageResult(
            landing=landing,
            image=image,
            verdict=verdict,
            quality=quality,
            preprocess_hash=part.preprocess_hash if part else None,
            preprocess_steps=part.preprocess_steps if part else (),
            timing_ms={"settle": landing.settle_ms, **timing_ms, "total": total_ms},
            decided=self._utcnow(),
            flags={"degraded": True} if any(scores.model.endpoint != LOCAL for scores in verdict.models) else {},
            judgement=landing.again.judgement if landing.again else 0,
        )

    def _free(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._vision.release(tensor)
