"""[[recipe]]: which models judge, how the image is prepared, and the rules that make a verdict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from edged.config.station import Section


class Preprocess(Section):
    """From the decoded page to a model's input. The same keys stand in a model's manifest; a recipe without its own uses the model's.

    `interpolation = "area"`: INTER_AREA when shrinking, INTER_LINEAR when growing. `fit = "none"` needs the exact size;
    `tile` cuts width x height tiles at native scale with `tile_overlap_px`. 16-bit pages: full range >> 8, or the window
    [low, high] stretched to 0..255.
    """

    colour: Literal["gray", "rgb"] = "gray"
    window_low: int | None = Field(None, ge=0, le=65535)
    window_high: int | None = Field(None, ge=1, le=65535)
    roi_px: tuple[int, int, int, int] | None = None
    flat_field: Path | None = None
    clahe_clip: float | None = Field(None, gt=0)
    clahe_tiles: int = Field(8, ge=1, le=64)
    fit: Literal["stretch", "letterbox", "tile", "none"] = "stretch"
    width_px: int = Field(640, ge=1, le=16384)
    height_px: int = Field(640, ge=1, le=16384)
    interpolation: Literal["area", "nearest", "linear"] = "area"
    pad_value: int = Field(0, ge=0, le=255)
    tile_overlap_px: int = Field(0, ge=0)
    normalise: Literal["model", "wire"] = "model"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0 / 255.0,)

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        if (self.window_low is None) != (self.window_high is None):
            raise ValueError("window_low and window_high go together")
        if self.window_low is not None and self.window_high is not None and self.window_low >= self.window_high:
            raise ValueError("window_low must be below window_high")
        if self.fit == "tile" and self.tile_overlap_px >= min(self.width_px, self.height_px):
            raise ValueError("tile_overlap_px must be smaller than the tile")
        if self.roi_px is not None and (min(self.roi_px) < 0 or 0 in self.roi_px[2:]):
            raise ValueError("roi_px is [x, y, w, h] with w and h above 0")
        return self


class QualityLimits(Section):
    """Outside these limits an image's `quality.ok` is false and PASS becomes REVIEW. None: measured, not judged."""

    min_sharpness: float | None = Field(None, ge=0)
    min_mean: float | None = Field(None, ge=0, le=255)
    max_mean: float | None = Field(None, ge=0, le=255)
    max_saturated_frac: float | None = Field(None, ge=0, le=1)


class Combine(StrEnum):
    """How several models make one verdict: any says FAIL; more than half; weighted mean of scores; the first gates the second."""

    ANY = "any"
    MAJORITY = "majority"
    WEIGHTED = "weighted"
    CHAIN = "chain"


class Action(StrEnum):
    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    REVIEW = "REVIEW"


class Zone(Section):
    """A rectangle of the page in fractions 0..1 [x, y, w, h]; `ignore` drops defects centred in it, `only` keeps no others."""

    name: str
    rect_frac: tuple[float, float, float, float]
    mode: Literal["ignore", "only"] = "ignore"


class Rule(Section):
    """One rule: defects of `classes` (all when empty) with `min_confidence`, `min_area_px` and `min_size_um`, within `zones`, at least
    `min_count` of them, make the verdict `verdict`. The worst verdict of all rules wins: FAIL, then REVIEW, then PASS."""

    name: str | None = None
    classes: tuple[str, ...] = ()
    min_confidence: float = Field(0.5, ge=0, le=1)
    min_area_px: float | None = Field(None, ge=0)
    min_size_um: float | None = Field(None, ge=0)
    max_confidence: float | None = Field(None, ge=0, le=1)
    zones: tuple[str, ...] = ()
    min_count: int = Field(1, ge=1)
    verdict: Action = Action.FAIL


class ClassCode(Section):
    """Numbers a MES knows a class by."""

    class_no: int | None = None
    rough_bin: int | None = None
    fine_bin: int | None = None


class Rules(Section):
    """The rule set of a recipe. `version` stands in every result as `{name}@{version}`; change it when you change a rule.

    With no `rule` at all: any defect with confidence >= 0.5 is FAIL, and a defect between 0.3 and 0.5 is REVIEW.
    """

    version: str = "1"
    rule: tuple[Rule, ...] = (Rule(name="defect"), Rule(name="unsure", min_confidence=0.3, max_confidence=0.5, verdict=Action.REVIEW))
    zone: tuple[Zone, ...] = ()
    min_confidence: float = Field(0.3, ge=0, le=1)
    merge_iou: float = Field(0.4, ge=0, le=1)
    codes: dict[str, ClassCode] = Field(default_factory=dict)
    quality: QualityLimits = QualityLimits()

    @model_validator(mode="after")
    def _zones_exist(self) -> Rules:
        known = {zone.name for zone in self.zone}
        if unknown := sorted({name for rule in self.rule for name in rule.zones} - known):
            raise ValueError(f"rules name unknown zones: {', '.join(unknown)}")
        return self


class Reference(Section):
    """The golden reference of an image: a file beside it named by `pattern`, or `{store}/{recipe}/{die_x}_{die_y}.*`.

    Files that match the pattern are references and never judged themselves. `required = "yes"`: no reference is REVIEW.
    """

    pattern: str | None = None
    store: Path | None = None
    required: Literal["yes", "no"] = "no"

    @model_validator(mode="after")
    def _one_way(self) -> Reference:
        if (self.pattern is None) == (self.store is None):
            raise ValueError("give either pattern or store")
        if self.pattern is not None and "{stem}" not in self.pattern:
            raise ValueError('the pattern needs {stem}, for example "{stem}_temp.{ext}"')
        return self


class Recipe(Section):
    """`models` are names from the repository, `name` (the active version) or `name:version`; in a chain the first gates the rest."""

    name: str = Field(min_length=1, max_length=128)
    models: tuple[str, ...] = Field(min_length=1)
    combine: Combine = Combine.ANY
    weights: tuple[float, ...] = ()
    preprocess: Preprocess | None = None
    rules: Rules = Rules()
    reference: Reference | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> Recipe:
        if self.combine is Combine.WEIGHTED and len(self.weights) != len(self.models):
            raise ValueError("combine = weighted needs one weight for each model")
        if self.combine is Combine.CHAIN and len(self.models) < 2:
            raise ValueError("combine = chain needs at least two models")
        return self
