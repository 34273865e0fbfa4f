"""The messages' shapes: one declaration gives the type, the fast serializer and the JSON Schema. Pure.

Absent, null and 0 differ: a `NotRequired` field is left out where it makes no sense, a `| None` field is null where the value is unknown.
Consumers ignore fields they do not know; within version 1 this only grows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

RESULT_TYPE = "edged.inspection.result.v1"
RESULT_SCHEMA = "urn:edged:schema:inspection-result:1.0"
EVENT_SCHEMA = "urn:edged:schema:event:1.0"
MAX_DEFECTS = 500
NAME_CAP = 255
TEXT_CAP = 1024

_STRICT = ConfigDict(allow_inf_nan=False)
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$", description="UTC, RFC 3339 with Z")]
Name = Annotated[str, Field(max_length=NAME_CAP)]
Text = Annotated[str, Field(max_length=TEXT_CAP)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Pair = tuple[Number, Number]
Ratio = Annotated[float, Field(ge=0, le=1)]
E10 = Annotated[Literal["PRD", "SBY", "ENG", "SDT", "UDT", "NST"] | None, Field(description="SEMI E10 state; null: edged was not told")]

Material = TypedDict(
    "Material",
    {
        "lot_id": Name | None,
        "wafer_id": Name | None,
        "slot": int | None,
        "carrier_id": Name | None,
        "product": Name | None,
        "step": Name | None,
        "complete": Annotated[bool, Field(description="lot and wafer are known")],
        "from": Annotated[Name | None, Field(description="which identity source gave it")],
    },
)

Defect = TypedDict(
    "Defect",
    {
        "n": Annotated[int, Field(ge=1)],
        "class": Name,
        "class_no": int | None,
        "rough_bin": int | None,
        "fine_bin": int | None,
        "confidence": Ratio,
        "box_px": Annotated[
            tuple[Number, Number, Number, Number] | None,
            Field(description="[x, y, w, h] from the original image's top left pixel, x right, y down; null: the whole image"),
        ],
        "area_px": Number | None,
        "rel_um": Annotated[Pair | None, Field(description="centre, relative to the die's origin")],
        "size_um": Pair | None,
        "model": NotRequired[Name],
    },
)


class Equipment(TypedDict):
    tool: Name
    chamber: Name | None
    camera: Name
    recipe: Name
    job_id: Name | None
    operator: Name | None
    e10: E10


class Frame(TypedDict):
    origin: Name
    axis: Name
    orientation_deg: int
    notch: Name
    um_per_px: Number | None
    die_pitch_um: Pair | None


class Die(TypedDict):
    x: int | None
    y: int | None
    site: int | None


class Model(TypedDict):
    name: Name
    version: Name
    role: Name
    endpoint: Name
    sha256: Name
    scores: Annotated[dict[str, Number | None], Field(description="class name to raw score; null: the model gave no number")]


class Preprocess(TypedDict):
    hash: Name | None
    opencv: Name | None
    steps: list[Name]


class Image(TypedDict):
    name: Name
    page: Annotated[int, Field(ge=0)]
    sha256: Annotated[Name | None, Field(description="of the whole file; null: nobody could read it")]
    bytes: Annotated[int, Field(ge=0)]
    width: int | None
    height: int | None
    bits: int | None
    media_type: Name | None
    ref: NotRequired[Annotated[str, Field(pattern="^https://")]]
    retained_until: NotRequired[Time | None]


class Quality(TypedDict):
    ok: bool
    sharpness: Number | None
    mean: Number | None
    saturated_frac: Ratio | None
    dark_frac: Ratio | None
    problems: list[Name]


class Times(TypedDict):
    acquired: Time | None
    acquired_from: Name | None
    detected: Time
    decided: Time
    clock: Literal["synced", "unsynced", "unknown"]


class ResultData(TypedDict):
    """One page's verdict."""

    verdict: Literal["PASS", "FAIL", "REVIEW", "ERROR"]
    reason: Text
    detail: NotRequired[Annotated[Text, Field(description="of an ERROR: what is wrong with the image, in words")]]
    rules: Name
    judgement: Annotated[int, Field(ge=0, description="the highest per landing wins, whatever order arrives")]
    supersedes: Name | None
    duplicate_of: Name | None
    material: Material
    equipment: Equipment
    frame: Frame | None
    die: Die
    defects: Annotated[list[Defect], Field(max_length=MAX_DEFECTS)]
    defect_count: Annotated[int, Field(ge=0, description="the true count, also where defects are truncated")]
    defects_truncated: bool
    models: list[Model]
    preprocess: Preprocess
    image: Image
    quality: Quality | None
    times: Times
    timing_ms: dict[str, Number | None]
    flags: dict[str, bool]


class Cloud(TypedDict):
    """A structured CloudEvent of one of the outbox's kinds."""

    specversion: Literal["1.0"]
    type: Name
    id: Name
    source: str
    subject: str
    time: Time
    datacontenttype: Literal["application/json"]
    dataschema: str
    epoch: Name
    kind: Name
    sequence: Annotated[str, Field(pattern=r"^\d{12,}$", description="without holes within (source, epoch, kind)")]
    traceparent: NotRequired[Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]]


class ResultMessage(Cloud):
    """The result of one image's page."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]  # pydantic reads it, TypedDict does not know it
    data: ResultData


class EventMessage(Cloud):
    """Something that happened: `type` and the topic name its kind."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    data: dict[str, Any]


class StateMessage(TypedDict):
    """Retained on `state`, and the Will: is edged there?"""

    online: bool
    since: Annotated[Time | None, Field(description="of this state; null in the Will, which is written before it is true")]
    e10: E10
    reason: Literal["connected", "stopped", "connection-lost"]
    boot_id: Name | None
    version: Name


class HealthEntry(TypedDict):
    status: Literal["ok", "degraded", "down", "unknown"]
    since: Time | None
    cause: Text
    hint: Text
    facts: dict[str, Any]


class HealthMessage(TypedDict):
    """Retained on `health` for 120 s: each dependency's state, and what waits to be delivered."""

    time: Time
    status: Literal["ok", "degraded", "down", "unknown"]
    items: dict[str, HealthEntry]
    backlog: dict[str, Any]


class BirthMessage(TypedDict):
    """Retained on `birth`: what this instance is made of; further fields come from the station."""

    time: Time
    version: Name
    python: Name
    hostname: Name
    source: Name
    topic_base: Name
    cameras: list[dict[str, Name]]
    recipes: list[dict[str, Any]]
    schemas: list[Name]
    config_sha256: Name
    confirm: Literal["broker", "mes"]
    clock: Literal["synced", "unsynced", "unknown"]


Sequence = Annotated[int, Field(ge=0, lt=1 << 63)]
"""What the ledger can hold: a larger one, from a stranger, would be asked of it all the same."""


class Ack(TypedDict):
    """From the MES, on `ack`: everything of (source, epoch, kind) up to `up_to_sequence` has arrived, except the `missing` ranges."""

    source: str
    epoch: str
    kind: str
    up_to_sequence: Sequence
    missing: NotRequired[Annotated[list[tuple[Sequence, Sequence]], Field(max_length=10_000)]]


result_message = TypeAdapter(ResultMessage)
event_message = TypeAdapter(EventMessage)
ack_message = TypeAdapter(Ack)
state_message = TypeAdapter(StateMessage)
health_message = TypeAdapter(HealthMessage)
birth_message = TypeAdapter(BirthMessage)
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def result_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the result message."""
    return _schema(result_message, RESULT_SCHEMA)


def event_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the event message."""
    return _schema(event_message, EVENT_SCHEMA)


def _schema(adapter: TypeAdapter[Any], name: str) -> dict[str, Any]:
    made: Mapping[str, Any] = adapter.json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, **made}
