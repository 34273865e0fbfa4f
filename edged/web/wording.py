"""Times, durations, sizes and figures as people read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any


def clock(moment: datetime, now: datetime) -> str:
    """Wall-clock time at the station, with the date where it is not today."""
    local, today = moment.astimezone(), now.astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%d %b %H:%M")


def age(seconds: float) -> str:
    """A duration in at most two units; what lies in the future (a clock stepped back) is 0 s."""
    left = max(int(seconds), 0)
    if left < 100:
        return f"{left} s"
    if left < 6000:
        return f"{left // 60} min"
    if left < 48 * 3600:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86400} d"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and GPUs are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def facts_text(facts: Mapping[str, Any]) -> str:
    """Up to three figures of a health item; the unit is taken from the end of the name."""
    parts = []
    for name, value in list(facts.items())[:3]:
        words = name.removesuffix("_bytes").removesuffix("_s").removesuffix("_h").replace("_", " ")
        if value is None or isinstance(value, list | tuple | dict):
            continue
        if name.endswith("_bytes"):
            parts.append(f"{size(value)} {words}")
        elif name.endswith("_s"):
            parts.append(f"{words} {age(value)}")
        elif name.endswith("_h"):
            parts.append(f"{words} {value:.0f} h")
        else:
            parts.append(f"{words} {value}")
    return ", ".join(parts)
