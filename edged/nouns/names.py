"""File names, shown."""

from __future__ import annotations


def display_name(path: bytes) -> str:
    """A file name as safe text: invalid UTF-8 and control characters become `\\xNN`, so that it cannot inject lines or escape codes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
