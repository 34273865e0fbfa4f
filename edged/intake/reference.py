"""Golden references beside the images or in a store: which files are references, and which one belongs to an image."""

# ruff: noqa: PTH117, PTH118, PTH122
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from edged.config import Recipe
from edged.nouns import Landing

_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
_IN_STORE = (*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))


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


def reference_candidates(landing: Landing, recipe: Recipe) -> tuple[Path, ...]:
    """Where an image's golden reference may lie, the likeliest first: beside it by `pattern`, or `{store}/{recipe}/{die_x}_{die_y}.*`.

    None when the image names no die, or the recipe's name leads out of the store. Pure: the store may hang, so a decoder process looks.
    """
    if (beside := reference_beside(landing.path, recipe)) is not None:
        return (Path(landing.folder, os.fsdecode(beside)),)
    die = landing.identity.die
    if recipe.reference is None or recipe.reference.store is None or die.x is None or die.y is None:
        return ()
    # A recipe's name is free text.
    if os.path.isabs(recipe.name) or ".." in recipe.name.split("/") or "\0" in recipe.name:
        return ()
    return tuple(recipe.reference.store / recipe.name / f"{die.x}_{die.y}{suffix}" for suffix in _IN_STORE)


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\{stem\}", "[^/]+", 1).replace(r"\{stem\}", "[^/]+").replace(r"\{ext\}", "[^./]+")
    return re.compile(rf"(?:^|/){text}\Z", re.IGNORECASE | re.DOTALL)
