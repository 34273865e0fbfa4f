"""The other way: what a result message says, as the nouns it was made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edged.nouns import Die, Frame, Identity, Material


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
