"""The golden images of a package: does the model that Triton serves see what it saw when it was made?

A golden image is prepared by the manifest's own preprocess and judged over the socket; its answer must equal expected.json within the
manifest's tolerance. Preparing an image and reading defects from outputs belong to other rooms: the daemon hands them in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edged.errors import FrameRejected, ModelMismatch, ModelOutputInvalid
from edged.inference.answers import Row
from edged.inference.manifest import Tolerance
from edged.inference.repository import Package
from edged.nouns import Defect, Geometry, InputPlan, ModelContract, ModelFacts, ModelOutputs

EXPECTED = "golden/expected.json"
LISTED_FROM = 0.5
"""expected.json lists defects from this confidence on."""

PrepareGolden = Callable[[Path, Sequence[InputPlan], Path | None], Sequence[tuple[NDArray[Any], Geometry]]]
"""(image, plans, reference image) -> one (array C x H x W, geometry) for each tile. Called in a thread."""
FindDefects = Callable[[ModelContract, ModelOutputs], Sequence[Defect]]
"""Defects of one page, boxes in pixels of the original image; classification: one for each class but the background."""
Ask = Callable[[Sequence[NDArray[Any]]], Awaitable[Sequence[Row | ModelOutputInvalid]]]


class _Listed(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    name: str = Field(alias="class")
    confidence: float
    box_px: tuple[float, float, float, float] | None = None


class _Expected(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    file: str
    reference: str | None = None
    scores: dict[str, float] | None = None
    defects: tuple[_Listed, ...] | None = None


class _ExpectedFile(BaseModel):
    images: tuple[_Expected, ...] = ()


class Golden:
    """`check` runs every golden image of one package. A package without golden images passes: `count` says so."""

    def __init__(self, package: Package, prepare: PrepareGolden, find_defects: FindDefects) -> None:
        self._package, self._prepare, self._find_defects = package, prepare, find_defects
        self._images: tuple[_Expected, ...] | None = None

    @property
    def count(self) -> int:
        """How many images `check` looks at; 0 before it was called."""
        return len(self._images or ())

    async def check(self, ask: Ask) -> None:
        """ModelMismatch in one sentence at the first image whose answer is not the expected one; what `ask` raises."""
        manifest = self._package.manifest
        if self._images is None:
            self._images = self._read()
        for expected in self._images:
            tiles = await asyncio.to_thread(self._tiles, expected)
            rows: list[Row] = []
            for start in range(0, len(tiles), manifest.max_batch_size):
                for row in await ask([array for array, _ in tiles[start : start + manifest.max_batch_size]]):
                    if isinstance(row, ModelOutputInvalid):
                        raise self._fails(expected, row.cause)
                    rows.append(row)
            if difference := self._difference(expected, rows, [geometry for _, geometry in tiles]):
                raise self._fails(expected, difference)

    def _read(self) -> tuple[_Expected, ...]:
        manifest = self._package.manifest
        if EXPECTED not in manifest.files:
            return ()
        try:
            found = _ExpectedFile.model_validate(json.loads((self._package.directory / EXPECTED).read_bytes())).images
        except (ValidationError, ValueError, OSError) as error:
            raise ModelMismatch(self._package.label, f"{EXPECTED} cannot be used: {str(error).splitlines()[0]}") from None
        says = "scores" if manifest.kind == "classification" else "defects"
        for image in found:
            if getattr(image, says) is None:
                raise ModelMismatch(self._package.label, f"{EXPECTED} gives no {says} for {image.file}")
            for file in (image.file, image.reference):
                if file is not None and file not in manifest.files:
                    raise ModelMismatch(self._package.label, f"{EXPECTED} names {file}, which the manifest does not list")
        return found

    def _tiles(self, expected: _Expected) -> Sequence[tuple[NDArray[Any], Geometry]]:
        directory = self._package.directory
        reference = directory / expected.reference if expected.reference else None
        try:
            return self._prepare(directory / expected.file, [self._package.manifest.plan()], reference)
        except (FrameRejected, OSError) as error:
            raise self._fails(expected, f"it cannot be prepared: {error}") from None

    def _difference(self, expected: _Expected, rows: Sequence[Row], geometries: Sequence[Geometry]) -> str:
        manifest, contract = self._package.manifest, self._package.manifest.contract()
        if contract.kind == "classification":
            scores = rows[0][contract.outputs["scores"]]
            return compare_scores(dict(zip(contract.classes, map(float, scores), strict=True)), expected.scores or {}, manifest.tolerance)
        facts = ModelFacts(manifest.name, manifest.version, manifest.model_sha256)
        found = self._find_defects(contract, ModelOutputs(facts, tuple(rows), tuple(geometries), 0.0, 0.0))
        return compare_defects(found, expected.defects or (), manifest.tolerance)

    def _fails(self, expected: _Expected, cause: str) -> ModelMismatch:
        return ModelMismatch(
            self._package.label,
            f"it fails its golden image {expected.file}: {cause}",
            "The served model is not the one of the package, or its runtime computes wrongly: deploy the package again.",
        )


def compare_scores(found: Mapping[str, float], expected: Mapping[str, float], tolerance: Tolerance) -> str:
    """What differs, or ''."""
    for name, want in expected.items():
        if name not in found:
            return f"it has no class {name}"
        if not abs(found[name] - want) <= tolerance.score:
            return f"{name} is {found[name]:.3f}, expected {want:.3f} within {tolerance.score:g}"
    return ""


def compare_defects(found: Sequence[Defect], expected: Sequence[_Listed], tolerance: Tolerance) -> str:
    """Every expected defect has one of its class, place and confidence; and none too many of confidence >= 0.5. What differs, or ''."""
    left = sorted(found, key=lambda defect: -defect.confidence)
    for want in expected:
        match = next((d for d in left if _matches(d, want, tolerance)), None)
        if match is None:
            return f"no {want.name} of confidence {want.confidence:.2f} at {want.box_px} was found"
        left.remove(match)
    extra = next((d for d in left if d.confidence >= LISTED_FROM + tolerance.score), None)
    return f"a {extra.name} of confidence {extra.confidence:.2f} at {extra.box_px} is too many" if extra else ""


def _matches(defect: Defect, want: _Listed, tolerance: Tolerance) -> bool:
    if defect.name != want.name or not abs(defect.confidence - want.confidence) <= tolerance.score:
        return False
    if defect.box_px is None or want.box_px is None:
        return defect.box_px == want.box_px
    return all(abs(a - b) <= tolerance.box_px for a, b in zip(defect.box_px, want.box_px, strict=True))
