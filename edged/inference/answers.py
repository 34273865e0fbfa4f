"""From Triton's answer to one mapping a row, each checked against the contract: shape, type, no NaN, scores within 0..1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import ModelOutputInvalid
from edged.inference.manifest import Manifest, Output

DTYPES: Mapping[str, type[np.generic]] = {"FP32": np.float32, "INT32": np.int32}
_SLACK = 1e-3  # a softmax in half precision may sum a little above 1

Row = Mapping[str, NDArray[Any]]


def rows_of(manifest: Manifest, response: Any, rows: int) -> list[Row | ModelOutputInvalid]:
    """One mapping (output name -> read-only array without batch axis) or what is wrong with it, for each of `rows` inputs.

    A row with NaN takes no other with it; a wrong shape or a missing output is wrong for all.
    """
    label = f"{manifest.name}:{manifest.version}"
    arrays: dict[str, NDArray[Any]] = {}
    places = {port.name: n for n, port in enumerate(response.outputs)}
    for output in manifest.outputs:
        found = _array_of(output, response, places.get(output.name), rows)
        if isinstance(found, str):
            return [ModelOutputInvalid(label, found)] * rows
        arrays[output.name] = found
    by_role = {output.role: output for output in manifest.outputs}
    causes = [""] * rows
    for role, output in by_role.items():
        values = arrays[output.name].reshape(rows, -1)
        if role == "labels":
            used = arrays[by_role["scores"].name] > 0
            wrong = (((values < 0) | (values >= len(manifest.classes))) & used).any(axis=1)
            cause = f"{output.name} holds a label that is none of its {len(manifest.classes)} classes"
        elif role == "boxes":
            wrong, cause = ~np.isfinite(values).all(axis=1), f"{output.name} holds NaN or infinity"
        else:
            # a comparison with NaN is false: one pass finds NaN and what lies outside
            wrong = ~((values >= -_SLACK) & (values <= 1 + _SLACK)).all(axis=1)
            cause = f"{output.name} holds NaN or scores outside 0..1"
        for n in np.flatnonzero(wrong):
            causes[n] = causes[n] or cause
    return [ModelOutputInvalid(label, causes[n]) if causes[n] else {name: array[n] for name, array in arrays.items()} for n in range(rows)]


def _array_of(output: Output, response: Any, place: int | None, rows: int) -> NDArray[Any] | str:
    """The whole batch of one output, or what is wrong with it."""
    if place is None or place >= len(response.raw_output_contents):
        return f"the answer lacks the output {output.name}"
    port, raw = response.outputs[place], response.raw_output_contents[place]
    shape, want = tuple(port.shape), (rows, *output.dims)
    if port.datatype != output.dtype or shape != want:
        return f"output {output.name} is {port.datatype} {list(shape)}, not {output.dtype} {list(want)}"
    dtype = np.dtype(DTYPES[output.dtype])
    if len(raw) != dtype.itemsize * int(np.prod(want)):
        return f"output {output.name} carries {len(raw)} bytes for {output.dtype} {list(want)}"
    return np.frombuffer(raw, dtype).reshape(want)
