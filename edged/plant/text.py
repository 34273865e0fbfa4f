"""Values made fit for a message: text without control characters and with an end, finite numbers, times in UTC. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

from edged.nouns import display_name, utc_text
from edged.plant.schema import NAME_CAP, TEXT_CAP

DEPTH = 8
ITEMS = 1000


def text(value: str, cap: int = NAME_CAP) -> str:
    """At most `cap` characters. What does not print is escaped: a broker drops the connection for a control character in a property."""
    if not value.isprintable():
        value = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return value if len(value) <= cap else value[: cap - 1] + "…"


def maybe(value: str | None) -> str | None:
    return None if value is None else text(value)


def number(value: float | None, digits: int) -> float | None:
    """Rounded; NaN and infinity have no place in JSON: null, as unknown."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def plain(value: Any, depth: int = 0) -> Any:
    """Any value as JSON can say it; what has no JSON form becomes its text. Capped in depth, length and number of items."""
    if isinstance(value, Enum):
        return plain(value.value, depth)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return text(value, TEXT_CAP)
    if isinstance(value, bytes):
        return text(display_name(value), TEXT_CAP)
    if isinstance(value, datetime):
        return utc_text(value)
    if depth < DEPTH and isinstance(value, Mapping):
        return {text(str(key)): plain(each, depth + 1) for key, each in list(value.items())[:ITEMS]}
    if depth < DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [plain(each, depth + 1) for each in list(value)[:ITEMS]]
    return text(str(value), TEXT_CAP)
