"""File names and times, shown."""

from __future__ import annotations

from datetime import UTC, datetime


def display_name(path: bytes) -> str:
    """A file name as safe text: invalid UTF-8 and control characters become `\\xNN`, so that it cannot inject lines or escape codes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def utc_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and Z; `moment` is aware."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
