"""Golden references beside the images or in a store: which files are references, and which one belongs to an image."""

# ruff: noqa: PTH118, PTH122
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from edged.config import Recipe
from edged.nouns import Landing

_SUFFIXES = frozenset((".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"))


def is_reference(path: bytes, recipe: Recipe) -> bool:
    """Whether a path below the camera's folder names a golden reference of `recipe`, which is never judged itself. Pure."""
    if recipe.reference is None or recipe.reference.pattern is None:
        return False
    return _matcher(recipe.reference.pattern).search(os.fsdecode(path)) is not None


def reference_beside(path: bytes, recipe: Recipe) -> bytes | None:
    """The path (below the folder) that the recipe's pattern gives an image at `path`, whether or not it exists. Pure."""
    if recipe.reference is None or recipe.reference.pattern is None:
        return None
    directory, name = os.path.split(os.fsdecode(path))
    stem, extension = os.path.splitext(name)
    beside = recipe.reference.pattern.replace("{ext}", extension[1:]).replace("{stem}", stem)
    return os.fsencode(os.path.normpath(os.path.join(directory, beside)))


def reference_for(landing: Landing, recipe: Recipe) -> Path | None:
    """An image's golden reference, if there is one: beside it by `pattern`, or `{store}/{recipe}/{die_x}_{die_y}.*`. Touches the disk."""
    if (beside := reference_beside(landing.path, recipe)) is not None:
        path = Path(landing.folder, os.fsdecode(beside))
        return path if path.is_file() else None
    die = landing.identity.die
    if recipe.reference is None or recipe.reference.store is None or die.x is None or die.y is None:
        return None
    shelf = recipe.reference.store / recipe.name
    # A recipe's name is free text: it must not lead out of the store.
    if not shelf.resolve().is_relative_to(recipe.reference.store.resolve()):
        return None
    found = (shelf / f"{die.x}_{die.y}{suffix}" for suffix in sorted(_SUFFIXES | {suffix.upper() for suffix in _SUFFIXES}))
    return next((path for path in found if path.is_file()), None)


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{stem\}", "[^/]+", 1).replace(r"\{stem\}", "[^/]+").replace(r"\{ext\}", "[^./]+")
    return re.compile(rf"(?:^|/){text}\Z", re.IGNORECASE | re.DOTALL)
