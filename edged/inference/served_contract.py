"""Is what Triton serves what the manifest promises? One sentence if not. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edged.errors import ModelMismatch
from edged.inference.client import Port, Served
from edged.inference.manifest import Input, Manifest, Output

_HINT = "Triton serves another model under this name: let it serve the daemon's own repository, or deploy the package again."


def require_match(manifest: Manifest, served: Served) -> None:
    """ModelMismatch naming the first difference in batch, names, types and shapes."""
    label = f"{manifest.name}:{manifest.version}"
    if served.max_batch_size < manifest.max_batch_size:
        raise ModelMismatch(
            label, f"Triton serves it with a maximum batch of {served.max_batch_size}, the manifest says {manifest.max_batch_size}", _HINT
        )
    for problem in (
        _difference("input", manifest.inputs, served.inputs),
        _difference("output", manifest.outputs, served.outputs),
    ):
        if problem:
            raise ModelMismatch(label, problem, _HINT)
    if more := sorted(set(served.inputs) - {put.name for put in manifest.inputs}):
        raise ModelMismatch(label, f"Triton's model also needs the input {more[0]}, of which the manifest knows nothing", _HINT)


def _difference(what: str, promised: Sequence[Input | Output], served: Mapping[str, Port]) -> str:
    for put in promised:
        port = served.get(put.name)
        if port is None:
            there = ", ".join(sorted(served)) or "none"
            return f"Triton's model has no {what} {put.name}; it has: {there}"
        if port.dtype != put.dtype:
            return f"{what} {put.name} is {port.dtype} at Triton, the manifest says {put.dtype}"
        want = (-1, *put.dims)
        if len(port.shape) != len(want) or any(got not in (-1, size) for got, size in zip(port.shape, want, strict=True)):
            return f"{what} {put.name} has the shape {list(port.shape)} at Triton, the manifest says {list(want)}"
    return ""
