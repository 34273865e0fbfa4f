"""Which other files an ONNX model reads: its tensors may lie outside it, under any path it likes. Read without any ONNX library.

An ONNX file is one protobuf message. Only the messages on the way to a tensor are walked, by the field numbers of onnx.proto; the tensors'
own bytes are skipped unread.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

_TENSOR, _ENTRY = "tensor", "entry"
# message -> {field number: the message in it}
_WAYS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
}
_MAX_DEPTH = 64
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


class NotOnnx(ValueError):  # noqa: N818 - it names what was found
    """The file is no well-formed protobuf message."""


def external_files(path: Path) -> frozenset[str]:
    """The paths, as the model writes them, of the files that hold its tensors. Raises NotOnnx, OSError."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise NotOnnx("it is empty")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return frozenset(_locations(data, 0, len(data), "model", 0))


def _locations(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise NotOnnx(f"it nests deeper than {_MAX_DEPTH}")
    ways = _WAYS[kind]
    for number, at, length in _fields(data, start, end):
        inner = ways.get(number)
        if inner == _ENTRY:
            entry = {n: data[a : a + size] for n, a, size in _fields(data, at, at + length) if n in (1, 2) and size <= 4096}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", "backslashreplace")
        elif inner is not None:
            yield from _locations(data, at, at + length, inner, depth + 1)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, position, length) of every field of bytes in the message."""
    while at < end:
        key, at = _varint(data, at, end)
        wire = key & 7
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        elif wire == _LENGTH:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise NotOnnx(f"a field at byte {at} reaches past its end")
            yield key >> 3, at, length
            at += length
        else:
            raise NotOnnx(f"a field at byte {at} is of no kind that ONNX has")
    if at > end:
        raise NotOnnx(f"it is cut off at byte {end}")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotOnnx(f"a number at byte {at} does not end")
