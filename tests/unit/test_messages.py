"""The messages: every field of the contract, nothing that a broker or an MES must refuse."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.config.station import Station
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
from edged.plant.messages import Messages, result_schema
from edged.plant.schema import event_schema
from edged.plant.settling import spans

BASE = "acme/fab2/litho/INSP07/edged/v1"
STATION = Station(enterprise="acme", site="fab2", area="litho", tool="INSP07", instance="a")
WHEN = datetime(2026, 11, 23, 15, 40, 57, 412_900, UTC)
NUMBERING = Numbering("5f6c1e77-7b1e-8c44-9d55-3f0a2b6c1e77", "c1f09a", "result", 184_467)
FRAME = Frame(um_per_px=0.325, die_pitch_um=(7270.96, 6559.46))
PARTICLE = Defect("particle", 0.931, (412.0, 88.5, 31.0, 27.5), 655.0, (7243.34, 1952.05), (10.1, 8.9), 17, 11, 0)
VALIDATOR = jsonschema.Draft202012Validator(result_schema())


def page(**changes: Any) -> PageResult:
    """The contract's example; `landing`, `image`, `verdict`, `identity` change fields of those parts."""
    identity = Identity(
        material=Material("L2411A", "L2411A-07", 7, "FOUP0032", "P77", "ADI-M2", complete=True, from_="klarf"),
        die=Die(-2, -9, 3),
        recipe="ADI_M2_V3",
        chamber="A",
        job_id="J-8812",
    )
    identity = dataclasses.replace(identity, **changes.pop("identity", {}))
    landing = Landing("cam1", "/drop", b"R_P77_4_5.tif", 1_048_832, 1, 2, identity, "adi", WHEN, 310.0, 1.0)
    image = ImageFacts("51ab" * 16, 1_048_832, "image/tiff", width=1024, height=1024, bits=8, acquired=WHEN, acquired_from="tiff:DateTime")
    model = ModelFacts("adi_seg", "14", "9f2c" * 16)
    scores = (ModelScores(model, {"particle": 0.931, "none": 0.05}),)
    verdict = Verdict(VerdictKind.FAIL, "class:particle>=0.80", "litho-adi@12", (PARTICLE,), 1, scores)
    made = PageResult(
        landing=dataclasses.replace(landing, **changes.pop("landing", {})),
        image=dataclasses.replace(image, **changes.pop("image", {})),
        verdict=dataclasses.replace(verdict, **changes.pop("verdict", {})),
        quality=Quality(ok=True, sharpness=212.4, mean=118.2, saturated_frac=0.0004),
        preprocess_hash="b71e",
        preprocess_steps=("flatfield", "clahe", "resize512"),
        timing_ms={"settle": 310.0, "decode": 3.1, "total": 716.0},
        decided=WHEN,
    )
    return dataclasses.replace(made, **changes)


def messages(**options: Any) -> Messages:
    options.setdefault("clock", lambda: "synced")
    return Messages(STATION, BASE, {"cam1": FRAME}, **options)


def told(result: PageResult, numbering: Numbering = NUMBERING, **options: Any) -> dict[str, Any]:
    """The body as JSON, valid by the published schema."""
    body: dict[str, Any] = json.loads(messages(**options).result(result, numbering).body, parse_constant=pytest.fail)
    VALIDATOR.validate(body)
    return body


def test_the_schema_is_itself_valid_and_names_itself() -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator.check_schema(event_schema())
    assert schema["$id"] == "urn:edged:schema:inspection-result:1.0"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_contracts_example_comes_out_as_the_contract_writes_it() -> None:
    body = told(page(), e10=lambda: "PRD")
    data = body.pop("data")
    assert body == {
        "specversion": "1.0",
        "type": "edged.inspection.result.v1",
        "id": "5f6c1e77-7b1e-8c44-9d55-3f0a2b6c1e77",
        "source": "/acme/fab2/litho/INSP07/edged/a",
        "subject": "L2411A/L2411A-07/cam1/000000184467",
        "time": "2026-11-23T15:40:57.412Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:edged:schema:inspection-result:1.0",
        "epoch": "c1f09a",
        "kind": "result",
        "sequence": "000000184467",
    }
    assert data["verdict"] == "FAIL" and data["reason"] == "class:particle>=0.80" and data["rules"] == "litho-adi@12"
    assert (data["judgement"], data["supersedes"], data["duplicate_of"]) == (0, None, None)
    assert data["material"] == {
        "lot_id": "L2411A",
        "wafer_id": "L2411A-07",
        "slot": 7,
        "carrier_id": "FOUP0032",
        "product": "P77",
        "step": "ADI-M2",
        "complete": True,
        "from": "klarf",
    }
    assert data["equipment"] == {
        "tool": "INSP07",
        "chamber": "A",
        "camera": "cam1",
        "recipe": "ADI_M2_V3",
        "job_id": "J-8812",
        "operator": None,
        "e10": "PRD",
    }
    assert data["frame"]["um_per_px"] == 0.325 and data["frame"]["die_pitch_um"] == [7270.96, 6559.46]
    assert data["die"] == {"x": -2, "y": -9, "site": 3}
    assert data["defects"] == [
        {
            "n": 1,
            "class": "particle",
            "class_no": 17,
            "rough_bin": 11,
            "fine_bin": 0,
            "confidence": 0.931,
            "box_px": [412.0, 88.5, 31.0, 27.5],
            "area_px": 655.0,
            "rel_um": [7243.34, 1952.05],
            "size_um": [10.1, 8.9],
        }
    ]
    assert data["models"][0]["scores"] == {"particle": 0.931, "none": 0.05}
    assert data["times"]["acquired"] == "2026-11-23T15:40:57.412Z" and data["times"]["clock"] == "synced"
    assert data["flags"] == {"simulated": False, "degraded": False}


def test_topic_and_user_properties() -> None:
    envelope = messages().result(page(), NUMBERING)
    assert envelope.topic == f"{BASE}/result/cam1/fail"
    assert envelope.properties == {
        "type": "edged.inspection.result.v1",
        "id": NUMBERING.id,
        "lot": "L2411A",
        "wafer": "L2411A-07",
        "verdict": "FAIL",
        "schema": "urn:edged:schema:inspection-result:1.0",
    }


def test_unknown_identity_is_null_and_left_out_of_the_properties() -> None:
    unknown = page(identity={"material": Material(), "die": Die()})
    body = told(unknown)
    assert body["subject"] == "-/-/cam1/000000184467"
    assert body["data"]["die"] == {"x": None, "y": None, "site": None}
    properties = messages().result(unknown, NUMBERING).properties
    assert "lot" not in properties and "wafer" not in properties


def test_absent_is_not_null() -> None:
    body = told(page())
    assert "traceparent" not in body
    assert "ref" not in body["data"]["image"] and "retained_until" not in body["data"]["image"]
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    body = told(page(landing={"traceparent": trace}), public_url="https://insp07.example/")
    assert body["traceparent"] == trace
    assert body["data"]["image"]["ref"] == f"https://insp07.example/api/v1/images/{'51ab' * 16}"
    assert "traceparent" not in told(page(landing={"traceparent": "garbage\n"}))


def test_an_image_that_nobody_could_decode_has_nulls_for_what_is_unknown() -> None:
    bare = page(
        image={"sha256": "", "media_type": None, "width": None, "height": None, "bits": None, "acquired": None},
        verdict={"kind": VerdictKind.ERROR, "reason": "truncated", "defects": (), "defect_count": 0, "models": ()},
        quality=None,
        preprocess_hash=None,
        preprocess_steps=(),
    )
    data = told(bare, public_url="https://x")["data"]
    assert data["image"]["sha256"] is None and "ref" not in data["image"]
    assert data["quality"] is None and data["preprocess"]["hash"] is None
    assert data["times"]["acquired"] is None and data["times"]["acquired_from"] is None


def test_nothing_that_is_no_number_reaches_the_body() -> None:
    bad = page(
        verdict={
            "defects": (dataclasses.replace(PARTICLE, area_px=math.nan, box_px=(0.0, math.inf, 1.0, 1.0)),),
            "models": (ModelScores(ModelFacts("m", "1", "s"), {"x": math.nan, "y": 0.5}),),
        },
        timing_ms={"total": math.inf},
        quality=Quality(ok=False, sharpness=math.nan, mean=1.0, saturated_frac=0.0),
    )
    data = told(bad)["data"]
    assert data["defects"][0]["area_px"] is None and data["defects"][0]["box_px"] is None
    assert data["models"][0]["scores"] == {"x": None, "y": 0.5}
    assert data["timing_ms"] == {"total": None} and data["quality"]["sharpness"] is None


@pytest.mark.parametrize(("kept", "true", "said", "truncated"), [(500, 500, 500, False), (500, 1200, 500, True), (700, 700, 500, True)])
def test_at_most_500_defects_and_the_true_count(kept: int, true: int, said: int, truncated: bool) -> None:
    data = told(page(verdict={"defects": (PARTICLE,) * kept, "defect_count": true}))["data"]
    assert (len(data["defects"]), data["defect_count"], data["defects_truncated"]) == (said, true, truncated)
    assert [defect["n"] for defect in data["defects"]] == list(range(1, said + 1))


def test_times_are_utc_wherever_they_were_read() -> None:
    east = datetime(2026, 11, 24, 0, 40, 55, 900_000, timezone(timedelta(hours=9)))
    data = told(page(identity={"acquired": east, "acquired_from": "sidecar-json"}))["data"]
    assert data["times"]["acquired"] == "2026-11-23T15:40:55.900Z"
    assert data["times"]["acquired_from"] == "sidecar-json"


def test_what_came_before_is_named() -> None:
    numbering = dataclasses.replace(NUMBERING, duplicate_of="first", supersedes="earlier")
    data = told(page(judgement=1), numbering)["data"]
    assert (data["judgement"], data["duplicate_of"], data["supersedes"]) == (1, "first", "earlier")
    assert messages().data_of(page(supersedes="s"))["supersedes"] == "s"


def test_one_page_makes_one_body() -> None:
    composer = messages()
    assert composer.result(page(), NUMBERING) == composer.result(page(), NUMBERING)


@settings(max_examples=60)
@given(text=st.text(st.characters(), max_size=400), name=st.binary(min_size=1, max_size=80))
def test_no_text_of_the_outside_can_break_a_message(text: str, name: bytes) -> None:
    identity = {"material": Material(text, text, carrier_id=text), "recipe": text, "operator": text, "chamber": text}
    result = page(identity=identity, landing={"path": name}, verdict={"reason": text * 9, "defects": (Defect(text, 1.0),)})
    body = told(result)
    assert body["subject"].count("/") == 3
    envelope = messages().result(result, NUMBERING)
    for value in envelope.properties.values():
        assert value.isprintable() and len(value.encode()) < 1200
    assert len(body["data"]["reason"]) <= 1024


def test_events_carry_anything_as_json() -> None:
    composer = messages(now=lambda: WHEN)
    numbering = dataclasses.replace(NUMBERING, kind="event", sequence=3)
    data = {"path": b"a\xff\n.png", "when": WHEN, "nan": math.nan, "kind": VerdictKind.PASS, "list": (1, {2}), "object": Station()}
    envelope = composer.event("quarantine", data, numbering)
    body = json.loads(envelope.body)
    jsonschema.Draft202012Validator(event_schema()).validate(body)
    assert envelope.topic == f"{BASE}/event/quarantine"
    assert body["type"] == "edged.event.quarantine.v1" and body["sequence"] == "000000000003"
    assert body["data"]["when"] == "2026-11-23T15:40:57.412Z" and body["data"]["nan"] is None
    assert body["data"]["kind"] == "PASS" and body["data"]["list"] == [1, [2]]
    assert "\n" not in body["data"]["path"]


@given(st.sets(st.integers(0, 60)))
def test_spans_cover_exactly_their_numbers(numbers: set[int]) -> None:
    covered = [number for first, last in spans(numbers) for number in range(first, last + 1)]
    assert covered == sorted(numbers)
