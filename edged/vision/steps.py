"""What a plan does to a page, as names for people and as one hash for the record; and a plan as plain data for a decoder process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.errors import ModelMismatch
from edged.nouns import InputPlan

CONTRACT = 1
"""Raised when the same keys would give other pixels than before (see `pixels.resize`)."""


@dataclass(frozen=True, slots=True)
class Steps:
    """`[recipe.preprocess]` as plain data: the same names and meanings as edged.config.Preprocess, without pydantic."""

    colour: str = "gray"
    window_low: int | None = None
    window_high: int | None = None
    roi_px: tuple[int, int, int, int] | None = None
    flat_field: str | None = None
    clahe_clip: float | None = None
    clahe_tiles: int = 8
    fit: str = "stretch"
    width_px: int = 640
    height_px: int = 640
    interpolation: str = "area"
    pad_value: int = 0
    tile_overlap_px: int = 0
    normalise: str = "model"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0 / 255.0,)


def window(preprocess: Any) -> tuple[int, int] | None:
    """The 16-bit window of a preprocess section, None for the full range."""
    if preprocess.window_low is None or preprocess.window_high is None:
        return None
    return preprocess.window_low, preprocess.window_high


def check(plan: InputPlan) -> None:
    """Raises ModelMismatch when the plan cannot fill the model's input: channels, size, type."""
    p = plan.preprocess
    channels, height, width = plan.dims
    own = 1 if p.colour == "gray" else 3
    allowed = {own, own + 1, 2 * own} - {own} if plan.reference else {own}
    if channels not in allowed:
        beside = " beside a reference" if plan.reference else ""
        gives = " or ".join(map(str, sorted(allowed)))
        raise ModelMismatch(plan.model, f"its input has {channels} channels, colour = {p.colour}{beside} gives {gives}")
    if p.fit != "none" and (p.width_px, p.height_px) != (width, height):
        made = f"{p.width_px} x {p.height_px}"
        raise ModelMismatch(plan.model, f"its input is {width} x {height} pixels, the preprocess section makes {made}")
    if plan.dtype not in ("UINT8", "FP32"):
        raise ModelMismatch(plan.model, f"its input type is {plan.dtype}; UINT8 and FP32 can be filled")
    if (plan.dtype == "FP32") != (p.normalise == "wire"):
        raise ModelMismatch(plan.model, f"its input is {plan.dtype}, but normalise = {p.normalise}: wire goes with FP32, model with UINT8")
    for name, values in (("mean", p.mean), ("scale", p.scale)):
        if p.normalise == "wire" and len(values) not in (1, channels):
            raise ModelMismatch(plan.model, f"{name} has {len(values)} values for {channels} channels")


def preprocess_hash(plan: InputPlan, flat_sha256: str | None = None) -> tuple[str, tuple[str, ...]]:
    """(16 hex digits, names of the steps in order). Keys without effect do not count; a flat field counts by its content when that is
    known (`flat_sha256`), else by its path."""
    p = plan.preprocess
    facts: dict[str, Any] = {"contract": CONTRACT, "dims": plan.dims, "dtype": plan.dtype, "colour": p.colour, "fit": p.fit}
    names = [p.colour]
    if p.roi_px is not None:
        facts["roi"] = list(p.roi_px)
        names.append("roi {},{} {}x{}".format(*p.roi_px))
    facts["window"] = window(p)
    names.append("high byte" if facts["window"] is None else "window {}..{}".format(*facts["window"]))
    if p.flat_field is not None:
        facts["flat"] = flat_sha256 or str(p.flat_field)
        names.append("flatfield")
    if p.clahe_clip is not None:
        facts["clahe"] = [p.clahe_clip, p.clahe_tiles]
        names.append(f"clahe {p.clahe_clip:g} {p.clahe_tiles}x{p.clahe_tiles}")
    names.append(f"{p.fit} {plan.dims[2]}x{plan.dims[1]}")
    if p.fit in ("stretch", "letterbox"):
        facts["interpolation"] = p.interpolation
        names[-1] += f" {p.interpolation}"
    if p.fit in ("letterbox", "tile"):
        facts["pad"] = p.pad_value
    if p.fit == "tile":
        facts["overlap"] = p.tile_overlap_px
        names[-1] += f" overlap {p.tile_overlap_px}"
    if p.normalise == "wire":
        facts["normalise"] = [list(p.mean), list(p.scale)]
        names.append("normalise")
    if plan.reference:
        facts["reference"] = True
        names.append("reference")
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16], tuple(names)


def combined_hash(each: Sequence[tuple[str, tuple[str, ...]]], models: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """One hash and one list of steps for a recipe of several models: shared steps once, else each with its model's name before it."""
    if len({digest for digest, _ in each}) <= 1:
        return each[0] if each else ("", ())
    joined = hashlib.sha256(" ".join(digest for digest, _ in each).encode()).hexdigest()[:16]
    return joined, tuple(f"{model}: {name}" for model, (_, names) in zip(models, each, strict=True) for name in names)


def to_wire(plan: InputPlan) -> dict[str, Any]:
    """The plan as JSON-ready data."""
    p = plan.preprocess
    steps = {name: getattr(p, name) for name in Steps.__slots__}
    steps["flat_field"] = None if p.flat_field is None else str(p.flat_field)
    return {"model": plan.model, "dims": list(plan.dims), "dtype": plan.dtype, "reference": plan.reference, "steps": steps}


def from_wire(data: Mapping[str, Any]) -> InputPlan:
    """The plan `to_wire` wrote; its preprocess is a Steps."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data["steps"].items()}
    channels, height, width = data["dims"]
    return InputPlan(data["model"], Steps(**values), (channels, height, width), data["dtype"], data["reference"])
