"""Who an image is: told from paths and sidecars of all manners, and never at the cost of the image."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.config import IdentityKind, IdentitySource
from edged.intake.identity import explain, identify, sidecar_worth_waiting, template_problem
from edged.intake.sidecar import MAX_BYTES, Unreadable, parse_sidecar, read_sidecar
from edged.nouns import Die, Identity

JSON, XML = IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML


def regex(pattern: str) -> IdentitySource:
    return IdentitySource(kind=IdentityKind.REGEX, pattern=pattern)


def template(pattern: str) -> IdentitySource:
    return IdentitySource(kind=IdentityKind.PATH_TEMPLATE, pattern=pattern)


def sidecar(kind: IdentityKind = JSON, **keys: str) -> IdentitySource:
    return IdentitySource(kind=kind, keys=keys)


def test_a_regular_expression_with_named_groups_tells_lot_wafer_and_die() -> None:
    found = identify([regex(r"(?P<lot_id>L\d+A)_(?P<wafer_id>W\d\d)_(?P<die_x>-?\d+)_(?P<die_y>-?\d+)")], b"L2411A_W07_-2_-9.tif")
    assert (found.material.lot_id, found.material.wafer_id, found.die) == ("L2411A", "W07", Die(-2, -9))
    assert found.material.complete
    assert found.material.from_ == "regex"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{lot_id}/{wafer_id}/{die_x}_{die_y}_{*}", b"L1/W2/3_-4_cam1.png", ("L1", "W2", 3, -4)),
        ("{lot_id}/{wafer_id}/{die_x}_{die_y}_{*}", b"2026/nov/L1/W2/3_-4_cam1.png", ("L1", "W2", 3, -4)),
        ("{lot_id}_{wafer_id}", b"L1_W2.png", ("L1", "W2", None, None)),
        ("{lot_id}-{wafer_id}.{*}", b"L1-W2.tar.png", ("L1", "W2", None, None)),
    ],
)
def test_a_path_template_tells_its_fields(pattern: str, path: bytes, expected: tuple[object, ...]) -> None:
    found = identify([template(pattern)], path)
    assert (found.material.lot_id, found.material.wafer_id, found.die.x, found.die.y) == expected


@pytest.mark.parametrize("pattern", ["{lotid}", "{lot_id}_{lot_id}", "no field", "{lot_id", "lot_id}", "{lot_id}{slot}", "{*}{lot_id}"])
def test_a_wrong_template_is_named_for_check_config(pattern: str) -> None:
    assert template_problem(pattern)


def test_a_json_sidecar_tells_everything_with_keys_by_dotted_path() -> None:
    lot = {"id": "L1", "wafers": [{"name": "W3"}]}
    data = json.dumps({"lot": lot, "slot": 7, "die_x": 2.0, "recipe": "ADI", "acquired": "2026-11-23T15:40:55.9Z"})
    found = identify([sidecar(lot_id="lot.id", wafer_id="lot.wafers.0.name")], b"a.png", {JSON: data.encode()})
    assert (found.material.lot_id, found.material.wafer_id, found.material.slot) == ("L1", "W3", 7)
    assert (found.die.x, found.recipe) == (2, "ADI")
    assert found.acquired == datetime(2026, 11, 23, 15, 40, 55, 900_000, UTC)
    assert found.acquired_from == "sidecar-json:acquired"


def test_an_xml_sidecar_is_read_by_element_attribute_and_name_space() -> None:
    data = b'<?xml version="1.0"?><i:Run xmlns:i="u"><Lot Id="L9"><wafer_id>W4</wafer_id></Lot><i:Job>J-8</i:Job></i:Run>'
    found = identify([sidecar(XML, lot_id="Run.Lot.Id", job_id="Job")], b"a.png", {XML: data})
    assert (found.material.lot_id, found.material.wafer_id, found.job_id) == ("L9", "W4", "J-8")


def test_the_first_source_that_matches_gives_the_whole_identity() -> None:
    sources = [sidecar(), regex(r"(?P<lot_id>L\d+)"), regex(r"(?P<wafer_id>W\d+)")]
    assert identify(sources, b"L1_W2.png").material.wafer_id is None
    assert identify(sources, b"L1_W2.png", {JSON: b'{"lot_id": "X", "wafer_id": "Y"}'}).material.lot_id == "X"
    assert explain(sources, b"W2.png").source == 2


def test_an_image_that_nothing_matches_has_an_incomplete_identity() -> None:
    assert identify([regex(r"(?P<lot_id>L\d+)")], b"x.png") == Identity()
    assert not identify([regex(r"(?P<lot_id>L\d+)")], b"L1.png").material.complete


def test_a_field_of_the_wrong_type_is_left_out_with_a_note() -> None:
    data = b'{"lot_id": "L1", "slot": "seven", "die_x": true, "wafer_id": "a\\nb", "acquired": 1e300}'
    parsed = explain([sidecar()], b"a.png", {JSON: data})
    found = parsed.identity
    assert found.material.lot_id == "L1"
    assert (found.material.slot, found.die.x, found.material.wafer_id, found.acquired) == (None,) * 4
    assert len(parsed.notes) == 4


@pytest.mark.parametrize("scale", [1, 1000, 10**6, 10**9])
def test_an_epoch_in_seconds_or_any_smaller_unit_is_the_same_time(scale: int) -> None:
    found = identify([sidecar()], b"a.png", {JSON: json.dumps({"lot_id": "L1", "acquired": 1_732_406_400 * scale}).encode()})
    assert found.acquired == datetime(2024, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize("time", ["1e300", "-1e18", "99999999999", "true", "[1]", '"yesterday"', "1" * 400, "-99999999999"])
def test_a_time_that_is_none_is_left_out(time: str) -> None:
    found = identify([sidecar()], b"a.png", {JSON: f'{{"lot_id": "L1", "acquired": {time}}}'.encode()})
    assert found.material.lot_id == "L1"


def test_a_directory_with_a_sidecars_name_costs_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [read_sidecar(tmp_path, b"a.png", JSON) for _ in range(20)] == [None] * 20
    assert len(list(Path("/proc/self/fd").iterdir())) == before


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
LAUGHS = b'<!DOCTYPE a [<!ENTITY b "bbb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
SECRET = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><lot_id>&x;</lot_id>'


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (JSON, b'{"lot_id": "L1", "lot_id": "L2"}'),
        (JSON, b'{"lot_id": "L1", "slot": NaN}'),
        (JSON, DEEP),
        (JSON, b"[" * 1_000_000),
        (JSON, b'{"slot": ' + b"9" * 10_000 + b"}"),
        (JSON, b'{"lot_id": "L1"'),
        (JSON, b'"L1"'),
        (JSON, b"\xff\xfe\x00"),
        (JSON, b" " * (MAX_BYTES + 1)),
        (JSON, b""),
        (XML, LAUGHS),
        (XML, SECRET),
        (XML, b"<a>" * 10_000),
        (XML, b"<lot_id>L1</lot"),
        (XML, b'<?xml version="1.0" encoding="nonsense"?><a/>'),
        (XML, b""),
    ],
)
def test_a_hostile_or_half_written_sidecar_is_refused_as_a_whole(kind: IdentityKind, data: bytes) -> None:
    with pytest.raises(Unreadable):
        parse_sidecar(kind, data)
    assert identify([sidecar(kind), regex(r"(?P<lot_id>L\d+)")], b"L7.png", {kind: data}).material.lot_id == "L7"


def test_a_sidecar_is_waited_for_only_while_it_could_change_the_identity() -> None:
    first, last = [sidecar(), regex(r"(?P<lot_id>L\d+)")], [regex(r"(?P<lot_id>L\d+)"), sidecar()]
    assert sidecar_worth_waiting(first, b"L1.png", {})
    assert not sidecar_worth_waiting(first, b"L1.png", {JSON: b'{"lot_id": "X"}'})
    assert sidecar_worth_waiting(first, b"L1.png", {JSON: b'{"lot_id": "X'})
    assert not sidecar_worth_waiting(last, b"L1.png", {})
    assert sidecar_worth_waiting(last, b"other.png", {})


SOURCES = [sidecar(), sidecar(XML), template("{lot_id}/{wafer_id}_{die_x}"), regex(r"(?P<lot_id>[^_]*)_(?P<slot>.*)")]


contents = st.one_of(st.none(), st.binary(max_size=300))


@settings(max_examples=40)
@given(path=st.binary(min_size=1, max_size=255), data=contents, xml=contents)
def test_no_name_and_no_sidecar_makes_identification_fail(path: bytes, data: bytes | None, xml: bytes | None) -> None:
    sidecars = {kind: content for kind, content in ((JSON, data), (XML, xml)) if content is not None}
    found = identify(SOURCES, path, sidecars)
    json.dumps(found.material.lot_id).encode("utf-8")
    assert found.material.complete == bool(found.material.lot_id and found.material.wafer_id)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=200))
json_values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=5), scalars, max_size=3))


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(("lot_id", "slot", "acquired", "die_x", "recipe"))), json_values, max_size=5))
def test_whatever_a_json_sidecar_holds_only_clean_values_come_out(document: dict[str, object]) -> None:
    found = identify([sidecar()], b"a.png", {JSON: json.dumps(document).encode()})
    assert found.material.slot is None or abs(found.material.slot) < 10**9
    assert found.material.lot_id is None or (found.material.lot_id.isprintable() and 0 < len(found.material.lot_id) <= 128)
    assert found.acquired is None or found.acquired.tzinfo is UTC
