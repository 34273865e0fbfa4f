"""Everything that is known of one page becomes its verdict. Pure.

What lowers PASS to REVIEW, never to FAIL: a missing reference that the recipe requires, poor image quality, incomplete identity.
A recipe name that nobody configured is REVIEW, whatever the models said: their rules were not made for this image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from edged.config import Combine, Recipe, Rules
from edged.nouns import Defect, Frame, ModelContract, ModelOutputs, ModelScores, Quality, Verdict, VerdictKind
from edged.verdict.combine import combine, shut_reason
from edged.verdict.defects import find_defects, page_scores
from edged.verdict.rules import NO_DEFECT, Decision, in_page_zones

MAX_DEFECTS = 500
WEAK = 0.01
_MISSING = "reference-missing"
_QUALITY = "quality:"
_INCOMPLETE = "identity-incomplete"


def judge(
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
    reference_missing: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Verdict:
    """The verdict for one page of `width` x `height` px.

    `outputs[i]` belongs to `contracts[i]`; in a chain whose gate is shut there is only the first, and there may be none where the recipe
    is not known. ValueError if outputs are missing.
    At most 500 defects are kept, the most confident; `defect_count` is the true count.
    """
    began = clock()
    if outputs or recipe_known:
        _require_outputs(recipe, contracts, outputs)
    rules = recipe.rules
    pairs = list(zip(contracts, outputs, strict=False))
    found = []
    for contract, answer in pairs:
        floor = _floor(recipe, contract)
        defects = find_defects(contract, answer, rules, width=width, height=height, frame=frame, floor=floor)
        found.append(in_page_zones(defects, rules, width, height))
    decision, defects = combine(recipe, contracts, found, width, height)
    kind, reason = _lowered(decision, complete, quality, recipe_known, reference_missing)
    scores = [ModelScores(answer.model, page_scores(contract, answer)) for contract, answer in pairs]
    return Verdict(
        kind=kind,
        reason=reason,
        rules=rules_name(recipe.name, rules),
        defects=_most_confident(defects),
        defect_count=len(defects),
        models=tuple(scores),
        took_ms=1000 * (clock() - began),
    )


def gate(recipe: Recipe, contract: ModelContract, outputs: ModelOutputs, *, width: int | None = None, height: int | None = None) -> bool:
    """Does the first model of a chain call for the others? True if it sees any defect of at least the rules' `min_confidence`.

    With the page's size, defects in zones that the page ignores do not count.
    """
    defects = find_defects(contract, outputs, recipe.rules, width=width or 1 << 30, height=height or 1 << 30)
    if width and height:
        defects = in_page_zones(defects, recipe.rules, width, height)
    return bool(defects)


def identified(recipe: Recipe | None, verdict: Verdict, *, complete: bool) -> Verdict:
    """A verdict as it would have been with an identity that is complete, or is not. Nothing else is decided anew.

    `recipe`: the one that judged, None where it is no longer known; it tells what a chain whose gate is shut calls PASS.
    """
    if verdict.kind is VerdictKind.PASS:
        return verdict if complete else replace(verdict, kind=VerdictKind.REVIEW, reason=_INCOMPLETE)
    doubts = verdict.reason.split("; ")
    # A REVIEW that the rules have said has another reason than these.
    if verdict.kind is not VerdictKind.REVIEW or any(
        doubt not in (_INCOMPLETE, _MISSING) and not doubt.startswith(_QUALITY) for doubt in doubts
    ):
        return verdict
    left = [doubt for doubt in doubts if doubt != _INCOMPLETE] + ([] if complete else [_INCOMPLETE])
    if left:
        return replace(verdict, reason="; ".join(left))
    shut = recipe is not None and recipe.combine is Combine.CHAIN and len(verdict.models) == 1 < len(recipe.models)
    return replace(verdict, kind=VerdictKind.PASS, reason=shut_reason(verdict.models[0].model.name) if shut else NO_DEFECT)


def rules_name(recipe: str, rules: Rules) -> str:
    """As it stands in each result."""
    return f"{recipe}@{rules.version}"


def join_parts(parts: Sequence[ModelOutputs]) -> ModelOutputs:
    """One answer for a page whose tiles were judged in several parts; the times are those of the slowest part."""
    if len(parts) == 1:
        return parts[0]
    return ModelOutputs(
        model=parts[0].model,
        tiles=tuple(tile for part in parts for tile in part.tiles),
        geometries=tuple(geometry for part in parts for geometry in part.geometries),
        queue_ms=max(part.queue_ms for part in parts),
        infer_ms=max(part.infer_ms for part in parts),
    )


def _floor(recipe: Recipe, contract: ModelContract) -> float | None:
    """A weighted mean needs the weak scores too; regions of a heat-map are cut at the rules' own limit."""
    return WEAK if recipe.combine is Combine.WEIGHTED and contract.kind != "segmentation" else None


def _require_outputs(recipe: Recipe, contracts: Sequence[ModelContract], outputs: Sequence[ModelOutputs]) -> None:
    shut = recipe.combine is Combine.CHAIN and len(outputs) == 1
    if len(outputs) != len(contracts) and not shut:
        raise ValueError(f"recipe {recipe.name} has {len(contracts)} models, but {len(outputs)} of them answered")
    if any(not answer.tiles for answer in outputs):
        raise ValueError(f"recipe {recipe.name}: a model was asked about no part of the page")


def _lowered(decision: Decision, complete: bool, quality: Quality | None, recipe_known: bool, reference_missing: bool) -> Decision:
    kind, reason = decision
    if not recipe_known:
        return VerdictKind.REVIEW, "recipe-unknown" if reason == NO_DEFECT else f"recipe-unknown; {reason}"
    if kind is VerdictKind.REVIEW and reference_missing:
        return kind, f"{_MISSING}; {reason}"
    if kind is not VerdictKind.PASS:
        return decision
    doubts = [_MISSING] if reference_missing else []
    if quality is not None and not quality.ok:
        doubts.append(f"{_QUALITY}{'+'.join(quality.problems) or 'poor'}")
    if not complete:
        doubts.append(_INCOMPLETE)
    return (VerdictKind.REVIEW, "; ".join(doubts)) if doubts else decision


def _most_confident(defects: Sequence[Defect]) -> tuple[Defect, ...]:
    ordered = sorted(defects, key=lambda defect: (-defect.confidence, defect.name, defect.box_px or ()))
    return tuple(ordered[:MAX_DEFECTS])
