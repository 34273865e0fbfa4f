"""manifest.json of a model package: what the model takes and gives, and the hash of every file that belongs to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edged.config import Preprocess
from edged.errors import ModelMismatch
from edged.inference.content import read_plain, require_listable
from edged.nouns import InputPlan, ModelContract

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES, MAX_CLASSES = 10_000, 10_000


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError(f"the class {name!r} has characters that do not print")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$", max_length=100)]
"""No double underscore: `{name}__{version}` must read back."""
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$", max_length=40)]
ClassName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]

ROLES = {"classification": {"scores"}, "detection": {"boxes", "scores", "labels"}, "segmentation": {"heatmap"}}
ROLE_DTYPES = {"scores": "FP32", "boxes": "FP32", "labels": "INT32", "heatmap": "FP32"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Part):
    name: str = Field(min_length=1)
    dtype: Literal["UINT8", "FP32"]
    dims: tuple[Positive, Positive, Positive]
    channels: tuple[str, ...] = ("gray",)


class Output(_Part):
    name: str = Field(min_length=1)
    dtype: str
    dims: tuple[Positive, ...] = Field(min_length=1)
    role: Literal["scores", "boxes", "labels", "heatmap"]


class Tolerance(_Part):
    """How far an answer to a golden image may lie from the expected one: scores absolutely, boxes in pixels of the original image."""

    score: float = Field(0.02, ge=0, le=1)
    box_px: float = Field(2.0, ge=0)


class Manifest(BaseModel):
    """`dims` are without the batch axis. One input; the outputs' roles follow from `kind`. Fields of later versions are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Name
    version: Version
    kind: Literal["classification", "detection", "segmentation"]
    model: str
    licence: str = ""
    citations: tuple[str, ...] = ()
    classes: tuple[ClassName, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    background: str | None = None
    max_batch_size: int = Field(1, ge=1, le=1024)
    inputs: tuple[Input] = Field(min_length=1, max_length=1)
    outputs: tuple[Output, ...] = Field(min_length=1)
    preprocess: Preprocess
    tolerance: Tolerance = Tolerance()
    files: dict[str, Sha256] = Field(max_length=MAX_FILES)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        for path in self.files:
            require_listable(path)
        if self.model not in self.files:
            raise ValueError(f"files does not list the model {self.model!r}")
        if self.background is not None and self.background not in self.classes:
            raise ValueError(f"background {self.background!r} is none of the classes")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        roles = [output.role for output in self.outputs]
        if sorted(roles) != sorted(ROLES[self.kind]):
            raise ValueError(f"a {self.kind} model has the outputs {sorted(ROLES[self.kind])}, not {sorted(roles)}")
        for output in self.outputs:
            if output.dtype != ROLE_DTYPES[output.role]:
                raise ValueError(f"output {output.name} ({output.role}) is {ROLE_DTYPES[output.role]}, not {output.dtype}")
        self._check_output_dims({output.role: output.dims for output in self.outputs})
        return self

    def _check_output_dims(self, dims: dict[str, tuple[int, ...]]) -> None:
        classes = len(self.classes)
        if self.kind == "classification" and dims["scores"] != (classes,):
            raise ValueError(f"scores has the dims {list(dims['scores'])} for {classes} classes")
        if self.kind == "detection":
            rows = dims["scores"][0]
            if (dims["boxes"], dims["scores"], dims["labels"]) != ((rows, 4), (rows,), (rows,)):
                raise ValueError("boxes, scores and labels have the dims [K, 4], [K] and [K] with the same K")
        if self.kind == "segmentation":
            _, height, width = self.inputs[0].dims
            if dims["heatmap"] != (classes, height, width):
                raise ValueError(f"heatmap has the dims {list(dims['heatmap'])}; it needs [classes, height, width] of the input")

    @property
    def triton_name(self) -> str:
        """What Triton and the repository's folders call this version."""
        return f"{self.name}__{self.version}"

    @property
    def model_sha256(self) -> str:
        return self.files[self.model]

    def contract(self) -> ModelContract:
        return ModelContract(
            name=self.name,
            version=self.version,
            sha256=self.model_sha256,
            kind=self.kind,
            classes=self.classes,
            background=self.background,
            outputs={output.role: output.name for output in self.outputs},
            max_batch_size=self.max_batch_size,
        )

    def plan(self, override: Preprocess | None = None) -> InputPlan:
        """How to fill the input: `override` (the recipe's preprocess) replaces the manifest's own, and must fit the input.

        ModelMismatch naming both sides if it does not.
        """
        put, preprocess = self.inputs[0], override or self.preprocess
        whose = "the recipe's" if override is not None else "the manifest's own"
        reference = "reference" in put.channels
        colours = 3 if preprocess.colour == "rgb" else 1
        # beside colour channels the reference is one more, in gray, or as many again
        counts = {colours + 1, 2 * colours} if reference else {colours}
        label = f"{self.name}:{self.version}"
        made = (put.dims[0] if put.dims[0] in counts else min(counts), preprocess.height_px, preprocess.width_px)
        if made != put.dims:
            raise ModelMismatch(
                label,
                f"{whose} preprocess makes {_shape(made)} ({preprocess.colour}{', with reference' if reference else ''}),"
                f" but the input {put.name} takes {_shape(put.dims)}",
                "Correct width_px, height_px and colour of the recipe's preprocess, or leave it out to use the model's own.",
            )
        dtype = "FP32" if preprocess.normalise == "wire" else "UINT8"
        if dtype != put.dtype:
            raise ModelMismatch(
                label,
                f"{whose} preprocess (normalise = {preprocess.normalise}) makes {dtype}, but the input {put.name} takes {put.dtype}",
                "Set normalise to model for a UINT8 input, to wire for an FP32 input.",
            )
        return InputPlan(model=self.name, preprocess=preprocess, dims=put.dims, dtype=put.dtype, reference=reference)


def read_manifest(directory: Path) -> Manifest:
    """The package's manifest; ModelMismatch in one sentence if it is missing, unreadable or wrong."""
    path = directory / MANIFEST
    try:
        data = read_plain(path, MAX_MANIFEST_BYTES + 1)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ModelMismatch(directory.name, f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
        content: Any = json.loads(data)
    except FileNotFoundError:
        raise ModelMismatch(directory.name, f"the package has no {MANIFEST}", "Deploy a complete package.") from None
    except OSError as error:
        raise ModelMismatch(directory.name, f"{MANIFEST} cannot be read: {error.strerror}", "Check the file's permissions.") from None
    except (ValueError, RecursionError) as error:
        raise ModelMismatch(directory.name, f"{MANIFEST} is not JSON: {error}", "Deploy the package again.") from None
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ModelMismatch(directory.name, f"{MANIFEST}: {where}: {first['msg']}{more}", "Correct the package's manifest.") from None
    if manifest.triton_name != directory.name:
        raise ModelMismatch(
            directory.name,
            f"{MANIFEST} says {manifest.name} version {manifest.version}, so the folder must be called {manifest.triton_name}",
            "Rename the folder, or correct the manifest.",
        )
    return manifest


def _shape(dims: tuple[int, ...]) -> str:
    return "x".join(map(str, dims))
