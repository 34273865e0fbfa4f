"""What a result message says is understood again, word for word; an identity that comes late changes what it should and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from edged.config import Combine, Recipe, Station
from edged.nouns import (
    Defect,
    Die,
    Frame,
    Identity,
    ImageFacts,
    Landing,
    Material,
    ModelFacts,
    ModelScores,
    Numbering,
    PageResult,
    Quality,
    Verdict,
    VerdictKind,
)
from edged.plant.messages import Messages
from edged.plant.told import identity_of, page_of
from edged.verdict import identified

NOW = datetime(2026, 11, 24, 3, 0, 0, 412000, tzinfo=UTC)
FRAME = Frame(um_per_px=0.325)
KNOWN = Identity(
    Material("L1", "W1", 7, "FOUP1", "P77", "ADI", True, "regex"),
    Die(-2, 9, 3),
    chamber="A",
    job_id="J1",
    operator="x",
    acquired=NOW,
    acquired_from="regex:acquired",
    frame=FRAME,
)


def a_page(identity: Identity = KNOWN) -> PageResult:
    landing = Landing("cam1", "/drop", b"a.tif", 100, 1000, 7, identity, "r1", NOW, 310.0, 0.0)
    image = ImageFacts("ab" * 32, 100, "image/tiff", 1, 3, 640, 480, 16, 1, NOW, "tiff:DateTime")
    defects = (
        Defect("particle", 0.93, (1.0, 2.0, 3.0, 4.0), 12.0, (5.0, 6.0), (7.0, 8.0), 17, 11, 0, "m"),
        Defect("scratch", 0.5),
    )
    scores = (ModelScores(ModelFacts("m", "1", "9f" * 32), {"particle": 0.93, "none": 0.1}),)
    verdict = Verdict(VerdictKind.FAIL, "class:particle>=0.80", "r1@3", defects, 700, scores)
    quality = Quality(False, 212.4, 118.2, 0.0004, 0.1, ("sharpness",))
    return PageResult(landing, image, verdict, quality, "b71e", ("gray",), {"settle": 310.0, "total": 716.0}, NOW)


@pytest.mark.parametrize("identity", [KNOWN, replace(KNOWN, acquired=None, acquired_from=None), replace(KNOWN, recipe="unknown-one")])
def test_a_page_read_back_from_its_message_makes_the_same_message(identity: Identity) -> None:
    messages = Messages(
        Station(enterprise="acme", site="fab2", area="litho", tool="INSP07"), "base", {}, clock=lambda: "synced", now=lambda: NOW
    )
    page = a_page(identity)
    numbering = Numbering("id", "epoch", "result", 1)
    data = messages.data_of(page, numbering)
    found = identity_of(data, "r1", FRAME)
    again = page_of(data, replace(page.landing, identity=found), decided=NOW, judgement=0)
    assert found == identity
    assert messages.data_of(again, numbering) == data
    elsewhere = replace(again, opencv="4.99.0")
    assert messages.data_of(elsewhere, numbering)["preprocess"]["opencv"] == "4.99.0"


@pytest.mark.parametrize(
    ("kind", "reason", "complete", "expected"),
    [
        ("REVIEW", "identity-incomplete", True, ("PASS", "no defect")),
        ("REVIEW", "quality:sharpness+mean; identity-incomplete", True, ("REVIEW", "quality:sharpness+mean")),
        ("REVIEW", "reference-missing; identity-incomplete", True, ("REVIEW", "reference-missing")),
        ("REVIEW", "identity-incomplete", False, ("REVIEW", "identity-incomplete")),
        ("REVIEW", "class:particle>=0.50 (doubtful)", True, ("REVIEW", "class:particle>=0.50 (doubtful)")),
        ("REVIEW", "reference-missing; class:particle>=0.50", True, ("REVIEW", "reference-missing; class:particle>=0.50")),
        ("FAIL", "class:particle>=0.80", True, ("FAIL", "class:particle>=0.80")),
        ("ERROR", "truncated", True, ("ERROR", "truncated")),
        ("PASS", "no defect", True, ("PASS", "no defect")),
        ("PASS", "no defect", False, ("REVIEW", "identity-incomplete")),
    ],
)
def test_a_late_identity_lifts_what_an_incomplete_one_had_lowered_and_nothing_else(
    kind: str, reason: str, complete: bool, expected: tuple[str, str]
) -> None:
    verdict = identified(None, Verdict(VerdictKind(kind), reason, "r1@1"), complete=complete)
    assert (verdict.kind.value, verdict.reason) == expected


def test_a_chain_whose_gate_was_shut_passes_for_that_reason_once_more() -> None:
    recipe = Recipe(name="r1", models=("gate", "fine"), combine=Combine.CHAIN)
    scores = (ModelScores(ModelFacts("gate", "1", "9f" * 32), {}),)
    verdict = identified(recipe, Verdict(VerdictKind.REVIEW, "identity-incomplete", "r1@1", models=scores), complete=True)
    assert (verdict.kind, verdict.reason) == (VerdictKind.PASS, "no defect; gate gate is shut")
