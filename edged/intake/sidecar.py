"""Sidecar files: JSON or XML with the image's stem, read without trusting a byte of them. Pure but for `read_sidecar`.

Refused as a whole: above 1 MiB, nesting deeper than 64, a path longer than 1024 characters, more than 20,000 values, JSON with NaN or a
repeated key, XML with a document type (entities live there).
A document is a flat mapping from dotted path to scalar; a bare field name finds the shallowest key or attribute of that name.
"""

# ruff: noqa: PTH118, PTH122
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from xml.parsers import expat

from edged.config import IdentityKind

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_SCALARS = 20_000
MAX_PATH = 1024  # every value carries its path: one long key above many values would cost gigabytes

Scalar = str | int | float | bool | None
SUFFIXES = {IdentityKind.SIDECAR_JSON: (".json", ".JSON"), IdentityKind.SIDECAR_XML: (".xml", ".XML")}
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Unreadable(ValueError):  # noqa: N818 - it names what was found
    """The sidecar is refused; the text says why. It may be half-written: waiting is worth it."""


def names_beside(path: bytes, kind: IdentityKind) -> tuple[bytes, ...]:
    """The sidecar names that belong to an image: same folder, same stem."""
    stem = os.path.splitext(path)[0]
    return tuple(stem + suffix.encode() for suffix in SUFFIXES.get(kind, ()))


def read_sidecar(folder: Path, path: bytes, kind: IdentityKind) -> bytes | None:
    """The bytes of an image's sidecar (1 MiB and one byte at most), None when there is none. Raises OSError when it cannot be read."""
    for name in names_beside(path, kind):
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(os.path.join(os.fsencode(folder), name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return os.read(fd, MAX_BYTES + 1)
            finally:
                os.close(fd)
    return None


def parse_sidecar(kind: IdentityKind, data: bytes) -> Mapping[str, Scalar]:
    """Dotted path -> scalar, shallowest first. Raises Unreadable. The last few are remembered: who asks again gets the same at once."""
    found = _parsed(kind, data)
    if isinstance(found, str):
        raise Unreadable(found)
    return found


def digest(kind: IdentityKind, data: bytes) -> None:
    """Parse it now, in a thread that may take a while (a hostile megabyte: a fifth of a second), so that nobody waits for it later."""
    _parsed(kind, data)


@lru_cache(maxsize=8)
def _parsed(kind: IdentityKind, data: bytes) -> Mapping[str, Scalar] | str:
    """The document, or why it is refused."""
    try:
        if len(data) > MAX_BYTES:
            raise Unreadable(f"the sidecar is larger than {MAX_BYTES} bytes")
        return _json(data) if kind is IdentityKind.SIDECAR_JSON else _xml(data)
    except Unreadable as problem:
        return str(problem)


def find(document: Mapping[str, Scalar], key: str) -> Scalar:
    """By full dotted path, by a path below the root, or by the last part: the shallowest wins."""
    if key in document:
        return document[key]
    end = "." + key
    found = [path for path in document if path.endswith(end)]
    return document[min(found, key=lambda path: path.count("."))] if found else None


def _json(data: bytes) -> Mapping[str, Scalar]:
    depth = 0
    for byte in _STRINGS.sub(b"", data).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            raise Unreadable(f"the sidecar nests deeper than {MAX_DEPTH}")
    try:
        tree = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the sidecar is no clean JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict):
        raise Unreadable("the sidecar is no JSON object")
    found = list(islice(_flat(tree, ""), MAX_SCALARS + 1))
    if len(found) > MAX_SCALARS:
        raise Unreadable(f"the sidecar holds more than {MAX_SCALARS} values")
    return dict(sorted(found, key=lambda item: item[0].count(".")))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands there twice")
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _flat(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    _require_short(path)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}" if path else str(index))
    else:
        yield path, value


def _require_short(path: str) -> None:
    if len(path) > MAX_PATH:
        raise Unreadable(f"the sidecar has a key that is longer, with those above it, than {MAX_PATH} characters")


class _XmlReader:
    """Collects texts and attributes; the name spaces' prefixes are dropped."""

    def __init__(self) -> None:
        self.document: dict[str, Scalar] = {}
        self._path: list[str] = []
        self._texts: list[list[str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= MAX_DEPTH or len(self.document) + len(attributes) > MAX_SCALARS:
            raise Unreadable(f"the sidecar nests deeper than {MAX_DEPTH} or holds more than {MAX_SCALARS} values")
        self._path.append(name.rpartition(":")[2])
        self._texts.append([])
        above = ".".join(self._path)
        _require_short(above)
        for key, value in attributes.items():
            path = f"{above}.{key.rpartition(':')[2]}"
            _require_short(path)
            self.document.setdefault(path, value)

    def end(self, _name: str) -> None:
        if text := "".join(self._texts.pop()).strip():
            self.document.setdefault(".".join(self._path), text)
        self._path.pop()

    def text(self, data: str) -> None:
        self._texts[-1].append(data)

    def doctype(self, *_facts: Any) -> None:
        raise Unreadable("the sidecar has a document type, which edged does not read")


def _xml(data: bytes) -> Mapping[str, Scalar]:
    reader = _XmlReader()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = reader.text, reader.doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unreadable(f"the sidecar is no clean XML: {error}") from None
    except (LookupError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"the sidecar's encoding is unknown: {error}") from None
    return reader.document
