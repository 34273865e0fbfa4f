"""Which files of a folder are a camera's images. Pure: names only, no file is touched.

A file belongs to the first camera in config order whose folder and globs match. Globs match the file name, or the path below the folder
when they contain a slash; letter case does not matter. Golden references, `move_to` folders and edged's own files are nobody's.
"""

# ruff: noqa: PTH100
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence

from edged.config import Camera, IdentityKind, IdentitySource, Recipe
from edged.intake.reference import is_reference

OWN_PREFIX = ".edged-"
_NOT_INCLUDED = "it does not match include"
MAX_DEPTH = 32


class Globs:
    """`include` and `exclude` of one camera, compiled."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._include, self._include_paths = _compile(camera.include)
        self._exclude, self._exclude_paths = _compile(camera.exclude)

    def why_not(self, name: str, path: str) -> str | None:
        if name.startswith(OWN_PREFIX):
            return "it is edged's own"
        if self.excludes(name, path):
            return "it matches exclude"
        return None if _hit(self._include, name) or _hit(self._include_paths, path) else _NOT_INCLUDED

    def explain(self, name: str, path: str) -> str | None:
        """As `why_not`, with the patterns: for one file that somebody asks for."""
        reason = self.why_not(name, path)
        if reason == _NOT_INCLUDED:
            return f"{reason} ({' '.join(self._camera.include)})"
        if reason is not None and self.excludes(name, path):
            one = (
                pattern for pattern in self._camera.exclude if _hit(_any([fnmatch.translate(pattern)]), path if "/" in pattern else name)
            )
            return f"{reason} ({next(one, '')})"
        return reason

    def excludes(self, name: str, path: str) -> bool:
        return _hit(self._exclude, name) or _hit(self._exclude_paths, path)


class Selection:
    """The rule of one camera among all: `cameras` in config order."""

    def __init__(self, camera: Camera, cameras: Sequence[Camera], recipes: Mapping[str, Recipe]) -> None:
        self._camera, self._globs, self._folder = camera, Globs(camera), _absolute(camera)
        earlier = cameras[: [each.name for each in cameras].index(camera.name)]
        self._earlier = [(other, _absolute(other), Globs(other)) for other in earlier if _overlap(camera, other)]
        self._done = {os.path.abspath(other.effective_move_to) for other in cameras}
        named = any(_may_name_recipe(source) for source in camera.identity)
        patterned = [recipe for recipe in recipes.values() if recipe.reference and recipe.reference.pattern]
        self._references = [recipe for recipe in patterned if named or recipe.name == camera.recipe]

    def explain(self, path: bytes) -> str | None:
        """As `why_not`, with the pattern that decides."""
        text = os.fsdecode(path)
        return self.why_not(path) and (self._globs.explain(text.rpartition("/")[2], text) or self.why_not(path))

    def why_not(self, path: bytes) -> str | None:
        """Why a file at `path` below the folder is not this camera's image, None when it is."""
        text = os.fsdecode(path)
        name = text.rpartition("/")[2]
        if "/" in text and not self._camera.recursive:
            return "the camera is not recursive"
        if (reason := self._globs.why_not(name, text)) is not None:
            return reason
        if self.is_reference(path):
            return "it is a golden reference"
        for other, folder, globs in self._earlier:
            below = _below(f"{self._folder}/{text}", folder)
            if below and ("/" not in below or other.recursive) and globs.why_not(name, below) is None:
                return f"it belongs to camera {other.name}, which comes first"
        return None

    def is_reference(self, path: bytes) -> bool:
        return any(is_reference(path, recipe) for recipe in self._references)

    def descends(self, path: bytes) -> bool:
        """Whether a directory below the folder is looked into."""
        text = os.fsdecode(path)
        if not self._camera.recursive or text.count("/") >= MAX_DEPTH or f"{self._folder}/{text}" in self._done:
            return False
        return not self._globs.excludes(text.rpartition("/")[2], text)


def _compile(patterns: Sequence[str]) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """(for names, for paths); None where no pattern is of that kind."""
    names = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    paths = [fnmatch.translate(pattern) for pattern in patterns if "/" in pattern]
    return _any(names), _any(paths)


def _any(expressions: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(expressions), re.IGNORECASE) if expressions else None


def _hit(pattern: re.Pattern[str] | None, text: str) -> bool:
    return pattern is not None and pattern.match(text) is not None


def _absolute(camera: Camera) -> str:
    return os.path.abspath(camera.folder)


def _below(path: str, folder: str) -> str | None:
    prefix = folder.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _overlap(one: Camera, other: Camera) -> bool:
    a, b = _absolute(one), _absolute(other)
    return a == b or _below(a, b) is not None or _below(b, a) is not None


def _may_name_recipe(source: IdentitySource) -> bool:
    if source.kind in (IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML):
        return True
    return "<recipe>" in (source.pattern or "") or "{recipe}" in (source.pattern or "")
