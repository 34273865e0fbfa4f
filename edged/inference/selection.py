"""Which version of a model a recipe gets. The one seam for rollout states: shadow, canary and promotion will answer here."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARTS = re.compile(r"\d+|[A-Za-z]+")


def split_reference(reference: str) -> tuple[str, str | None]:
    """`name` -> (name, None): the active version; `name:version` -> exactly that one."""
    name, _, version = reference.partition(":")
    return name, version or None


def active_version(versions: Iterable[str]) -> str:
    """The highest version, numbers compared as numbers: 10 is above 9, 2 above 2-rc1. ValueError if there is none."""
    return max(versions, key=_order)


def _order(version: str) -> tuple[tuple[int, int, str], ...]:
    parts = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in _PARTS.findall(version)]
    return (*parts, (1, -1, ""))  # the end lies above letters and below numbers
