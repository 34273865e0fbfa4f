"""Lot, wafer, die and the rest, told from a file's path and its sidecars. Pure.

The sources are tried in order; the first that matches gives the whole identity. A field whose text does not fit its type is left out
with a note and never makes an image fail. `complete` means: lot and wafer are both known.
"""

# ruff: noqa: PTH122
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from edged.config import IDENTITY_FIELDS, IdentityKind, IdentitySource
from edged.intake.sidecar import Scalar, Unreadable, find, parse_sidecar
from edged.nouns import Die, Frame, Identity, Material

MAX_TEXT = 128
_SECONDS_UNTIL_5138 = 1e11
_INTEGERS = frozenset(("slot", "die_x", "die_y", "site"))
_SIDECARS = (IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML)
_FIELD = re.compile(r"\{(\*|[a-z_]+)\}")
_INTEGER = re.compile(r"[+-]?\d{1,9}")
_TIMES = ("%Y%m%dT%H%M%S", "%Y%m%d_%H%M%S", "%Y%m%d-%H%M%S", "%Y%m%d%H%M%S", "%Y-%m-%d_%H-%M-%S", "%Y:%m:%d %H:%M:%S")

Sidecars = Mapping[IdentityKind, bytes]


@dataclass(frozen=True, slots=True)
class Parsed:
    """An identity and how it came about. `source`: index in the camera's list, None when nothing matched. `notes`: one sentence each."""

    identity: Identity
    source: int | None
    notes: tuple[str, ...]


def identify(sources: Sequence[IdentitySource], path: bytes, sidecars: Sidecars | None = None, frame: Frame | None = None) -> Identity:
    """What the first matching source says of the image at `path` (relative to the camera's folder)."""
    return explain(sources, path, sidecars, frame).identity


def explain(sources: Sequence[IdentitySource], path: bytes, sidecars: Sidecars | None = None, frame: Frame | None = None) -> Parsed:
    """As `identify`, with the reason for each source that did not match and each field that was left out."""
    text = path.decode("utf-8", "backslashreplace")
    notes: list[str] = []
    for index, source in enumerate(sources):
        try:
            values = _values(source, text, sidecars or {})
        except ValueError as problem:
            notes.append(f"{source.kind}: {problem}")
            continue
        fields = _typed(values, str(source.kind), notes)
        if fields:
            return Parsed(_identity(fields, source.kind, frame), index, tuple(notes))
        notes.append(f"{source.kind}: it names no field")
    return Parsed(Identity(frame=frame), None, tuple(notes))


def sidecar_worth_waiting(sources: Sequence[IdentitySource], path: bytes, sidecars: Sidecars) -> bool:
    """Whether a sidecar that is missing or half-written could still change who the image is."""
    matched = explain(sources, path, sidecars).source
    return any(source.kind in _SIDECARS for source in sources[: len(sources) if matched is None else matched])


def broken_sidecar(
    sources: Sequence[IdentitySource], path: bytes, sidecars: Sidecars, unread: Mapping[IdentityKind, str]
) -> tuple[IdentityKind, str] | None:
    """A sidecar that is there, would have told who the image is, and is refused: its kind and why. `unread`: those that cannot be read."""
    for source in sources[: explain(sources, path, sidecars).source]:
        if source.kind in _SIDECARS and (data := sidecars.get(source.kind)) is not None:
            try:
                parse_sidecar(source.kind, data)
            except Unreadable as problem:
                return source.kind, str(problem)
        elif source.kind in unread:
            return source.kind, unread[source.kind]
    return None


def template_problem(pattern: str) -> str | None:
    """What is wrong with a path template, None when nothing is: for check-config."""
    try:
        _template(pattern)
    except ValueError as problem:
        return str(problem)
    return None


def _values(source: IdentitySource, path: str, sidecars: Sidecars) -> Mapping[str, Scalar]:
    if source.kind in _SIDECARS:
        data = sidecars.get(source.kind)
        if data is None:
            raise Unreadable("there is no sidecar")
        document = parse_sidecar(source.kind, data)
        return {field: value for field in IDENTITY_FIELDS if (value := find(document, source.keys.get(field, field))) is not None}
    pattern = source.pattern or ""
    expression = _template(pattern) if source.kind is IdentityKind.PATH_TEMPLATE else _regex(pattern)
    whole = source.kind is IdentityKind.REGEX or "." in _FIELD.sub("", pattern.rpartition("/")[2])
    match = expression.search(path if whole else os.path.splitext(path)[0])
    if match is None:
        raise ValueError("the path does not match")
    return match.groupdict()


@lru_cache(maxsize=256)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@lru_cache(maxsize=256)
def _template(pattern: str) -> re.Pattern[str]:
    """`{field}` ends at the first occurrence of the character that follows it, so a match costs no backtracking; `{*}` is anything."""
    parts, position, seen = [r"(?:^|/)"], 0, set[str]()
    for match in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        position, name = match.end(), match.group(1)
        stop = re.escape(pattern[position : position + 1])
        if stop == r"\{" and name not in _INTEGERS:  # and trying all ends of several would take minutes
            raise ValueError(f"nobody can tell where {{{name}}} ends: put a character between it and the field behind it")
        anything = f"[^/{stop}]" if stop and stop not in ("/", r"\{") else "[^/]"
        if name == "*":
            parts.append(f"{anything}*")
            continue
        if name not in IDENTITY_FIELDS or name in seen:
            raise ValueError(f"{{{name}}} is unknown or stands there twice; known are {', '.join(sorted(IDENTITY_FIELDS))} and *")
        seen.add(name)
        parts.append(f"(?P<{name}>{r'[+-]?[0-9]+' if name in _INTEGERS else anything + '+'})")
    rest = pattern[position:]
    if "{" in rest or "}" in rest or not seen:
        raise ValueError("a brace has no partner, or the template names no field")
    return re.compile("".join((*parts, re.escape(rest), "$")))


def _typed(values: Mapping[str, Scalar], kind: str, notes: list[str]) -> dict[str, str | int | datetime]:
    fields: dict[str, str | int | datetime] = {}
    for name, value in sorted(values.items()):
        if value is None or value == "":
            continue
        try:
            if name in _INTEGERS:
                fields[name] = _integer(value)
            elif name == "acquired":
                fields[name] = _time(value)
            else:
                fields[name] = _text(value)
        except (ValueError, OverflowError, OSError) as problem:  # OSError: a time beyond what the platform knows
            notes.append(f"{kind}: {name} left out: {problem}")
    return fields


def _integer(value: Scalar) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not _INTEGER.fullmatch(str(value).strip()):
        raise ValueError(f"{str(value)[:40]!r} is no whole number")
    return int(str(value).strip())


def _text(value: Scalar) -> str:
    if isinstance(value, (bool, float)):
        raise ValueError(f"{value!r} is no text")  # noqa: TRY004 - it is about the sidecar's value, not about a caller
    text = str(value).strip()
    if not text or len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(f"it is empty, longer than {MAX_TEXT} characters or holds control characters")
    return text


def _time(value: Scalar) -> datetime:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # Seconds since 1970, or milli-, micro- or nanoseconds: a scale of a thousand apart, so the size tells.
        for _ in range(3):
            if abs(value) >= _SECONDS_UNTIL_5138:
                value /= 1000
        return datetime.fromtimestamp(value, UTC)
    text = str(value).strip()[:40]
    for form in _TIMES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time") from None
    # A tool that names no zone is taken to mean UTC: the station's own zone must not enter a result.
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _identity(fields: Mapping[str, str | int | datetime], kind: IdentityKind, frame: Frame | None) -> Identity:
    def text(name: str) -> str | None:
        value = fields.get(name)
        return value if isinstance(value, str) else None

    def number(name: str) -> int | None:
        value = fields.get(name)
        return value if isinstance(value, int) else None

    lot, wafer, acquired = text("lot_id"), text("wafer_id"), fields.get("acquired")
    material = Material(lot, wafer, number("slot"), text("carrier_id"), text("product"), text("step"), bool(lot and wafer), str(kind))
    identity = Identity(material, Die(number("die_x"), number("die_y"), number("site")), text("recipe"), text("chamber"), text("job_id"))
    time = acquired if isinstance(acquired, datetime) else None
    return replace(identity, operator=text("operator"), acquired=time, acquired_from=f"{kind}:acquired" if time else None, frame=frame)
