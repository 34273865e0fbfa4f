"""Several models, one verdict. Pure.

- any: each model's defects by the rules; the worst verdict wins.
- majority: FAIL if more than half of the models say FAIL; else REVIEW if more than half do not say PASS, or if exactly half of an even
  number do not; else PASS.
- weighted: what several models see in one place (or say of the whole image) is one defect; its confidence is the mean of the models'
  confidences by weight, 0 for a model that knows the class and does not see it. The rules then judge these.
- chain: the first model is a gate. Nothing found: PASS. Otherwise the later models judge, and of these the worst wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edged.config import Combine, Recipe
from edged.nouns import Defect, ModelContract, VerdictKind
from edged.verdict.merging import Finding, groups
from edged.verdict.rules import NO_DEFECT, Decision, decide, worst


def combine(
    recipe: Recipe, contracts: Sequence[ModelContract], found: Sequence[Sequence[Defect]], width: int, height: int
) -> tuple[Decision, tuple[Defect, ...]]:
    """The decision and the defects it rests on. `found[i]` is what model `i` sees; fewer than `contracts` in a chain whose gate is shut."""
    rules = recipe.rules
    if recipe.combine is Combine.WEIGHTED:
        defects = _weighted(recipe, contracts, found)
        return decide(defects, rules, width, height), defects
    if recipe.combine is Combine.CHAIN:
        if len(found) == 1:
            return (VerdictKind.PASS, shut_reason(contracts[0].name)), tuple(found[0])
        later = [decide(defects, rules, width, height) for defects in found[1:]]
        return worst(later), tuple(defect for defects in found[1:] for defect in defects)
    decisions = [decide(defects, rules, width, height) for defects in found]
    everything = tuple(defect for defects in found for defect in defects)
    if recipe.combine is Combine.MAJORITY and len(found) > 1:
        return _majority(decisions), everything
    return worst(decisions), everything


def shut_reason(gate: str) -> str:
    return f"{NO_DEFECT}; gate {gate} is shut"


def _majority(decisions: Sequence[Decision]) -> Decision:
    half = len(decisions) / 2
    failing = [decision for decision in decisions if decision[0] is VerdictKind.FAIL]
    doubting = [decision for decision in decisions if decision[0] is not VerdictKind.PASS]
    if len(failing) > half:
        return failing[0]
    if len(doubting) > half:
        return VerdictKind.REVIEW, worst(doubting)[1]
    if doubting and len(doubting) == half:
        return VerdictKind.REVIEW, f"majority:split, {worst(doubting)[1]}"
    return VerdictKind.PASS, NO_DEFECT


def _weighted(recipe: Recipe, contracts: Sequence[ModelContract], found: Sequence[Sequence[Defect]]) -> tuple[Defect, ...]:
    boxed: list[tuple[Finding, Defect]] = []
    together: dict[str, list[tuple[int, Defect]]] = {}
    for model, defects in enumerate(found):
        for defect in defects:
            if defect.box_px is None:
                together.setdefault(defect.name, []).append((model, defect))
            else:
                boxed.append((Finding(defect.name, defect.confidence, defect.box_px, defect.area_px or 0.0, model), defect))
    origin = {id(finding): defect for finding, defect in boxed}
    clusters = list(together.values())
    clusters += [
        [(finding.source, origin[id(finding)]) for finding in group]
        for group in groups([finding for finding, _ in boxed], recipe.rules.merge_iou)
    ]
    averaged = [_averaged(recipe, contracts, cluster) for cluster in clusters]
    kept = [defect for defect in averaged if defect.confidence >= recipe.rules.min_confidence]
    return tuple(sorted(kept, key=lambda defect: -defect.confidence))


def _averaged(recipe: Recipe, contracts: Sequence[ModelContract], cluster: Sequence[tuple[int, Defect]]) -> Defect:
    best: dict[int, float] = {}
    for model, defect in cluster:
        best[model] = max(best.get(model, 0.0), defect.confidence)
    shown = max(cluster, key=lambda seen: seen[1].confidence)[1]
    asked = [n for n, contract in enumerate(contracts) if shown.name in contract.classes]
    total = sum(recipe.weights[n] for n in asked)
    mean = sum(recipe.weights[n] * best.get(n, 0.0) for n in asked) / total if total > 0 else 0.0
    return replace(shown, confidence=round(mean, 4))
