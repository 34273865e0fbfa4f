"""The health board: what every dependency said last, and the one sentence that matters most.

Invariants
- One event `health.changed` is logged for each change of an item's status, none for a repeated report.
- `since` is when the present status began; a new cause under the same status keeps it.
- Reports may come from any thread.
- The station is ready when everything that a verdict needs works; what it does not need (`ONLY_DEGRADES`) may be down meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import structlog

from edged.nouns import HealthItem, HealthStatus

ONLY_DEGRADES = frozenset({"broker", "gpu", "clock", "http"})
"""Images are judged and recorded without these."""

CAUSES_FIRST = ("process", "ledger", "disk", "triton", "decoders", "folder", "recipe", "broker", "clock", "http", "gpu")
"""Among equally bad items the first of these is named: it is likely the cause of the others."""

_LABELS = {
    "ledger": "Ledger",
    "disk": "Disk",
    "triton": "Triton",
    "broker": "MQTT broker",
    "gpu": "GPU",
    "clock": "Clock",
    "http": "HTTP",
    "folder": "Folder of",
    "recipe": "Recipe",
    "decoders": "Decoders",
    "process": "Process",
}
_SEVERITY = {HealthStatus.OK: 0, HealthStatus.UNKNOWN: 1, HealthStatus.DEGRADED: 2, HealthStatus.DOWN: 3}


def label(name: str) -> str:
    """The item's name for people: `folder:cam1` is "Folder of cam1"."""
    kind, _, rest = name.partition(":")
    return f"{_LABELS.get(kind, kind)} {rest}".strip()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class HealthBoard:
    """Implements `nouns.Board`. `needs` names the items that must have been heard from before the station counts as ready."""

    def __init__(self, *, needs: Collection[str] = (), now: Callable[[], datetime] = _utc_now) -> None:
        self._needs = tuple(needs)
        self._now = now
        self._started = now()
        self._items: dict[str, HealthItem] = {}
        self._listeners: list[Callable[[HealthItem], None]] = []
        self._lock = threading.Lock()
        self._log = structlog.get_logger("edged.health")

    def listen(self, changed: Callable[[HealthItem], None]) -> None:
        """Have `changed` called after each change of status, in the thread that reported it."""
        self._listeners.append(changed)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        with self._lock:
            before = self._items.get(name)
            moved = before is None or before.status is not status
            since = self._now() if before is None or moved else before.since
            item = HealthItem(name, status, cause, hint, since, facts)
            self._items[name] = item
        if not moved:
            return
        speak = self._log.warning if status in (HealthStatus.DEGRADED, HealthStatus.DOWN) else self._log.info
        speak("health.changed", item=name, status=status.value, was=before.status.value if before else None, cause=cause, hint=hint)
        for listener in self._listeners:
            listener(item)

    def forget(self, name: str) -> None:
        """The item is no longer part of the station (its camera or recipe was removed)."""
        with self._lock:
            self._items.pop(name, None)

    def items(self) -> tuple[HealthItem, ...]:
        """Everything heard of, in the order in which one thing causes another."""
        with self._lock:
            items = list(self._items.values())
        return tuple(sorted(items, key=lambda item: (_place(item), item.name)))

    def overall(self) -> HealthItem:
        """The station as one item named `station`: the worst status and its cause and hint.

        Facts: `ready` (bool), `item` (whose cause it is, or None), `others` (names of the other items that are not well).
        """
        items = self.items()
        silent = [name for name in self._needs if name not in {item.name for item in items}]
        unwell = sorted((item for item in items if _counts(item)), key=lambda item: (-_weight(item), _place(item)))
        ready = not silent and all(_weight(item) < _SEVERITY[HealthStatus.DOWN] and not _blind(item) for item in unwell)
        if unwell and _weight(unwell[0]) >= _SEVERITY[HealthStatus.DEGRADED]:
            first = unwell[0]
            status = HealthStatus.DOWN if _weight(first) == _SEVERITY[HealthStatus.DOWN] else HealthStatus.DEGRADED
            cause = first.cause or f"{label(first.name)} is {first.status.value}."
            return _station(status, cause, first.hint, first.since, ready, first.name, [item.name for item in unwell[1:]])
        if silent or unwell:
            waiting = ", ".join(label(name) for name in [*silent, *(item.name for item in unwell)])
            hint = "Wait; if this lasts longer than two minutes, look at the log of edged."
            return _station(HealthStatus.UNKNOWN, f"Starting: not yet known of {waiting}.", hint, self._started, ready, None, silent)
        since = max((item.since for item in items if item.since), default=self._started)
        return _station(HealthStatus.OK, "Everything works.", "", since, ready, None, [])


def headline(overall: HealthItem) -> str:
    """One line for a terminal or systemd's STATUS=."""
    return " ".join(part for part in (f"{overall.status.value}:", overall.cause, overall.hint) if part)


def _station(
    status: HealthStatus, cause: str, hint: str, since: datetime | None, ready: bool, item: str | None, others: list[str]
) -> HealthItem:
    return HealthItem("station", status, cause, hint, since, {"ready": ready, "item": item, "others": others})


def _place(item: HealthItem) -> int:
    kind = item.name.partition(":")[0]
    return CAUSES_FIRST.index(kind) if kind in CAUSES_FIRST else len(CAUSES_FIRST)


def _weight(item: HealthItem) -> int:
    """What the item's status means for the whole station."""
    severity = _SEVERITY[item.status]
    return min(severity, _SEVERITY[HealthStatus.DEGRADED]) if item.name in ONLY_DEGRADES else severity


def _blind(item: HealthItem) -> bool:
    """Nothing is known of something that a verdict needs."""
    return item.status is HealthStatus.UNKNOWN and item.name not in ONLY_DEGRADES


def _counts(item: HealthItem) -> bool:
    """A station without a GPU, or without a known clock state, is well."""
    return item.status is not HealthStatus.OK and (item.status is not HealthStatus.UNKNOWN or _blind(item))
