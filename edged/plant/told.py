"""The other way: what a result message says, as the nouns it was made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

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
    PageResult,
    Quality,
    Verdict,
    VerdictKind,
)


def identity_of(data: Mapping[str, Any], judged_by: str, frame: Frame | None) -> Identity:
    """Who the image was said to be. `judged_by`: the recipe it was judged with, which is not named once more; `frame`: its camera's."""
    material, die, equipment, times = data["material"], data["die"], data["equipment"], data["times"]
    named = equipment["recipe"]
    # A time that the decoder found in the file is found again.
    acquired = times["acquired"] if str(times["acquired_from"]).endswith(":acquired") else None
    return Identity(
        material=Material(
            material["lot_id"],
            material["wafer_id"],
            material["slot"],
            material["carrier_id"],
            material["product"],
            material["step"],
            material["complete"],
            material["from"],
        ),
        die=Die(die["x"], die["y"], die["site"]),
        recipe=None if named == judged_by else named,
        chamber=equipment["chamber"],
        job_id=equipment["job_id"],
        operator=equipment["operator"],
        acquired=datetime.fromisoformat(acquired) if acquired else None,
        acquired_from=times["acquired_from"] if acquired else None,
        frame=frame,
    )


def page_of(data: Mapping[str, Any], landing: Landing, *, decided: datetime, judgement: int) -> PageResult:
    """The page as it was judged, now of `landing`, which may know better who it is."""
    image, times, preprocess = data["image"], data["times"], data["preprocess"]
    acquired = None if str(times["acquired_from"]).endswith(":acquired") else times["acquired"]
    facts = ImageFacts(
        sha256=image["sha256"] or "",
        bytes=image["bytes"],
        media_type=image["media_type"],
        page=image["page"],
        width=image["width"],
        height=image["height"],
        bits=image["bits"],
        acquired=datetime.fromisoformat(acquired) if acquired else None,
        acquired_from=times["acquired_from"] if acquired else None,
    )
    quality = data["quality"]
    return PageResult(
        landing=landing,
        image=facts,
        verdict=verdict_of(data),
        quality=None if quality is None else Quality(**{**quality, "problems": tuple(quality["problems"])}),
        preprocess_hash=preprocess["hash"],
        preprocess_steps=tuple(preprocess["steps"]),
        timing_ms={stage: ms for stage, ms in data["timing_ms"].items() if ms is not None},
        decided=decided,
        judgement=judgement,
        flags={name: value for name, value in data["flags"].items() if value},
        opencv=preprocess["opencv"],
    )


def verdict_of(data: Mapping[str, Any]) -> Verdict:
    return Verdict(
        kind=VerdictKind(data["verdict"]),
        reason=data["reason"],
        rules=data["rules"],
        defects=tuple(_defect(each) for each in data["defects"]),
        defect_count=data["defect_count"],
        models=tuple(
            ModelScores(
                ModelFacts(each["name"], each["version"], each["sha256"], each["role"], each["endpoint"]),
                each["scores"],
            )
            for each in data["models"]
        ),
    )


def _defect(said: Mapping[str, Any]) -> Defect:
    return Defect(
        name=said["class"],
        confidence=said["confidence"],
        box_px=_tuple(said["box_px"]),
        area_px=said["area_px"],
        rel_um=_tuple(said["rel_um"]),
        size_um=_tuple(said["size_um"]),
        class_no=said["class_no"],
        rough_bin=said["rough_bin"],
        fine_bin=said["fine_bin"],
        model=said.get("model"),
    )


def _tuple(said: Any) -> Any:
    return None if said is None else tuple(said)
