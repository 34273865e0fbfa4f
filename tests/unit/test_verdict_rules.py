"""Rules make the verdict: the worst wins, the reason is named, doubt lowers PASS to REVIEW and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.config import Action, Combine, Recipe, Rule, Rules, Zone
from edged.nouns import Defect, Frame, Geometry, ModelContract, ModelFacts, ModelOutputs, Quality, VerdictKind
from edged.verdict import gate, join_parts, judge
from edged.verdict.rules import decide, in_page_zones, worst

PASS, FAIL, REVIEW = VerdictKind.PASS, VerdictKind.FAIL, VerdictKind.REVIEW
WHOLE = Geometry(1, 1, 0, 0, (0, 0, 100, 100))


def spot(name: str, confidence: float, box: tuple[float, float, float, float] = (10, 10, 10, 10), um: float | None = None) -> Defect:
    return Defect(name, confidence, box, box[2] * box[3], size_um=None if um is None else (um, um / 2))


def verdict(defects: list[Defect], **rules: Any) -> tuple[VerdictKind, str]:
    made = Rules(**rules)
    return decide(in_page_zones(defects, made, 100, 100), made, 100, 100)


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.9, (FAIL, "class:particle>=0.50 (defect)")),
        (0.5, (FAIL, "class:particle>=0.50 (defect)")),
        (0.4, (REVIEW, "class:particle>=0.30 (unsure)")),
    ],
)
def test_without_rules_a_sure_defect_fails_and_an_unsure_one_is_for_review(confidence: float, expected: tuple[VerdictKind, str]) -> None:
    assert verdict([spot("particle", confidence)]) == expected


def test_without_defects_it_passes() -> None:
    assert verdict([]) == (PASS, "no defect")


def test_an_unnamed_rule_gives_the_bare_reason() -> None:
    assert verdict([spot("particle", 0.93)], rule=[Rule(classes=("particle",), min_confidence=0.8)]) == (FAIL, "class:particle>=0.80")


def test_rules_look_at_count_area_size_and_class() -> None:
    two = [spot("particle", 0.9), spot("particle", 0.7)]
    assert verdict(two, rule=[Rule(min_count=2)]) == (FAIL, "count:particle>=2")
    assert verdict(two, rule=[Rule(min_count=3)])[0] is PASS
    assert verdict(two, rule=[Rule(min_area_px=100)]) == (FAIL, "area:particle>=100px")
    assert verdict(two, rule=[Rule(min_area_px=101)])[0] is PASS
    assert verdict([spot("particle", 0.9, um=3.0)], rule=[Rule(min_size_um=3)]) == (FAIL, "size:particle>=3um")
    assert verdict([spot("particle", 0.9, um=2.9)], rule=[Rule(min_size_um=3)])[0] is PASS
    assert verdict(two, rule=[Rule(classes=("scratch",))])[0] is PASS


def test_a_size_that_nobody_knows_is_for_review_not_for_fail() -> None:
    assert verdict([spot("particle", 0.9)], rule=[Rule(min_size_um=3, name="big")]) == (REVIEW, "size-unknown:particle (big)")
    known = [spot("particle", 0.9), spot("scratch", 0.8, um=5.0)]
    assert verdict(known, rule=[Rule(min_size_um=3)])[0] is FAIL


def test_zones_that_no_rule_names_hold_for_the_whole_page() -> None:
    edge = Zone(name="edge", rect_frac=(0, 0, 0.2, 1))
    assert verdict([spot("particle", 0.9)], zone=[edge])[0] is PASS
    assert verdict([spot("particle", 0.9, (50, 10, 10, 10))], zone=[edge])[0] is FAIL
    assert verdict([Defect("Center", 0.9)], zone=[edge])[0] is FAIL  # the whole image has no centre


def test_zones_that_a_rule_names_hold_for_that_rule_alone() -> None:
    core = Zone(name="core", rect_frac=(0.4, 0.4, 0.2, 0.2), mode="only")
    rules = [Rule(zones=("core",)), Rule(verdict=Action.REVIEW)]
    assert verdict([spot("particle", 0.9)], zone=[core], rule=rules)[0] is REVIEW
    assert verdict([spot("particle", 0.9, (45, 45, 10, 10))], zone=[core], rule=rules)[0] is FAIL


kinds = st.sampled_from([PASS, FAIL, REVIEW])


@given(st.lists(kinds, min_size=1), st.randoms(use_true_random=False))
def test_the_worst_verdict_wins_whatever_the_order(found: list[VerdictKind], rng: Any) -> None:
    expected = FAIL if FAIL in found else REVIEW if REVIEW in found else PASS
    rng.shuffle(found)
    assert worst([(kind, "") for kind in found])[0] is expected


@given(st.lists(st.floats(0.3, 1).map(lambda c: round(c, 4)), max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_rules_and_defects_does_not_change_the_verdict(confidences: list[float], rng: Any) -> None:
    rules = [Rule(min_confidence=0.8), Rule(min_confidence=0.5, min_count=3), Rule(min_confidence=0.4, verdict=Action.REVIEW)]
    defects = [spot("particle", confidence) for confidence in confidences]
    first = verdict(defects, rule=rules)[0]
    rng.shuffle(rules)
    rng.shuffle(defects)
    assert verdict(defects, rule=rules)[0] is first


# --- judging ------------------------------------------------------------------------------------------------------------------
def model(name: str, *classes: str, background: str | None = "None") -> ModelContract:
    return ModelContract(name, "1", "0" * 64, "classification", classes or ("None", "bad"), background, {"scores": "s"})


def says(contract: ModelContract, *scores: float) -> ModelOutputs:
    return ModelOutputs(ModelFacts(contract.name, "1", contract.sha256), ({"s": np.array(scores, np.float32)},), (WHOLE,), 1.0, 2.0)


def judged(*bad: float, combine: Combine = Combine.ANY, weights: tuple[float, ...] = (), **given_: Any) -> Any:
    names = [f"m{n}" for n in range(max(len(bad), 2 if combine is Combine.CHAIN else 1))]
    recipe = Recipe(name="litho", models=tuple(names), combine=combine, weights=weights, rules=given_.pop("rules", Rules(version="12")))
    contracts = [model(name) for name in names]
    outputs = [says(contract, 1 - score, score) for contract, score in zip(contracts, bad, strict=False)]
    facts = {"width": 100, "height": 100, "frame": None, "complete": True, "quality": Quality(True, 1, 1, 0), "recipe_known": True}
    return judge(recipe, contracts, outputs, **{**facts, **given_})


def test_a_verdict_names_its_rules_and_carries_every_models_raw_scores() -> None:
    found = judged(0.9)
    assert (found.kind, found.reason, found.rules) == (FAIL, "class:bad>=0.50 (defect)", "litho@12")
    assert found.models[0].scores == {"None": 0.1, "bad": 0.9}
    assert found.models[0].model.name == "m0"
    assert [(d.name, d.confidence) for d in found.defects] == [("bad", 0.9)]
    assert found.took_ms > 0


@pytest.mark.parametrize(
    ("doubt", "reason"),
    [
        ({"complete": False}, "identity-incomplete"),
        ({"quality": Quality(False, 1, 1, 0, problems=("blurred", "dark"))}, "quality:blurred+dark"),
        ({"reference_missing": True}, "reference-missing"),
        ({"complete": False, "quality": Quality(False, 1, 1, 0, problems=("blurred",))}, "quality:blurred; identity-incomplete"),
    ],
)
def test_doubt_lowers_pass_to_review_and_leaves_fail_alone(doubt: dict[str, Any], reason: str) -> None:
    assert (judged(0.1, **doubt).kind, judged(0.1, **doubt).reason) == (REVIEW, reason)
    assert (judged(0.9, **doubt).kind, judged(0.9, **doubt).reason) == (FAIL, "class:bad>=0.50 (defect)")


def test_an_unknown_recipe_is_for_review_whatever_the_models_say() -> None:
    assert (judged(0.1, recipe_known=False).kind, judged(0.1, recipe_known=False).reason) == (REVIEW, "recipe-unknown")
    assert judged(0.9, recipe_known=False).kind is REVIEW
    assert judged(recipe_known=False).reason == "recipe-unknown"


def test_an_image_that_no_model_looked_at_never_passes() -> None:
    with pytest.raises(ValueError, match="0 of them answered"):
        judged()
    recipe, contract = Recipe(name="r", models=("m",)), model("m")
    with pytest.raises(ValueError, match="no part of the page"):
        judge(recipe, [contract], [ModelOutputs(ModelFacts("m", "1", ""), (), (), 0, 0)], width=1, height=1, frame=Frame(),
              complete=True, quality=None, recipe_known=True)  # fmt: skip


@pytest.mark.parametrize(("bad", "kind"), [((0.1, 0.2), PASS), ((0.1, 0.9), FAIL), ((0.4, 0.1), REVIEW)])
def test_any_model_can_fail_a_page(bad: tuple[float, ...], kind: VerdictKind) -> None:
    assert judged(*bad).kind is kind


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ((0.9, 0.9, 0.1), FAIL),
        ((0.9, 0.1, 0.1), PASS),
        ((0.9, 0.4, 0.1), REVIEW),
        ((0.9, 0.1), REVIEW),  # an even split is nobody's majority
        ((0.9, 0.9), FAIL),
        ((0.1, 0.1), PASS),
    ],
)
def test_the_majority_decides(bad: tuple[float, ...], kind: VerdictKind) -> None:
    assert judged(*bad, combine=Combine.MAJORITY).kind is kind


@pytest.mark.parametrize(
    ("bad", "weights", "mean"),
    [((0.9, 0.2), (1.0, 1.0), 0.55), ((0.9, 0.2), (1.0, 3.0), 0.375), ((0.6, 0.8), (1.0, 0.0), 0.6)],
)
def test_a_weighted_mean_counts_weak_scores_too(bad: tuple[float, ...], weights: tuple[float, ...], mean: float) -> None:
    found = judged(*bad, combine=Combine.WEIGHTED, weights=weights)
    assert [d.confidence for d in found.defects] == [mean]
    assert found.kind is (FAIL if mean >= 0.5 else REVIEW)
    assert [scores.scores["bad"] for scores in found.models] == list(bad)


def test_a_weighted_mean_leaves_out_models_that_do_not_know_the_class() -> None:
    contracts = [model("a"), model("b", "None", "worse")]
    recipe = Recipe(name="r", models=("a", "b"), combine=Combine.WEIGHTED, weights=(1, 1))
    found = judge(recipe, contracts, [says(contracts[0], 0.2, 0.8), says(contracts[1], 1, 0)], width=9, height=9, frame=None,
                  complete=True, quality=None, recipe_known=True)  # fmt: skip
    assert [(d.name, d.confidence) for d in found.defects] == [("bad", 0.8)]


def test_in_a_chain_the_first_model_only_opens_the_gate() -> None:
    recipe = Recipe(name="r", models=("first", "second"), combine=Combine.CHAIN)
    first = model("first")
    assert gate(recipe, first, says(first, 0.6, 0.4))
    assert not gate(recipe, first, says(first, 0.8, 0.2))
    assert judged(0.9, 0.1, combine=Combine.CHAIN).kind is PASS
    assert judged(0.4, 0.9, combine=Combine.CHAIN).kind is FAIL
    shut = judged(0.1, combine=Combine.CHAIN)
    assert (shut.kind, shut.reason, len(shut.models)) == (PASS, "no defect; gate m0 is shut", 1)


def test_at_most_500_defects_are_kept_the_most_confident_and_the_true_count() -> None:
    contract = ModelContract("d", "1", "", "detection", ("particle",), None, {"boxes": "b", "scores": "s", "labels": "l"})
    scores = np.linspace(0.3, 1, 700).astype(np.float32)
    boxes = np.stack([np.arange(700.0), np.arange(700.0), np.ones(700), np.ones(700)], axis=1).astype(np.float32)
    tile = {"b": boxes, "s": scores, "l": np.zeros(700, np.int32)}
    outputs = ModelOutputs(ModelFacts("d", "1", ""), (tile,), (Geometry(1, 1, 0, 0, (0, 0, 800, 800)),), 0, 0)
    found = judge(Recipe(name="r", models=("d",)), [contract], [outputs], width=800, height=800, frame=None, complete=True,
                  quality=None, recipe_known=True)  # fmt: skip
    assert (len(found.defects), found.defect_count) == (500, 700)
    assert found.defects[0].confidence == 1.0
    assert min(d.confidence for d in found.defects) > 0.49


def test_the_parts_of_a_page_join_to_one_answer() -> None:
    contract = model("m")
    joined = join_parts([says(contract, 0.9, 0.1), says(contract, 0.2, 0.8)])
    assert (len(joined.tiles), len(joined.geometries), joined.infer_ms) == (2, 2, 2.0)
