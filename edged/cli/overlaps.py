"""Which cameras would see the same files, and how many files a baseline would pass over: for check-config."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from edged.config import Camera, Config, Existing
from edged.intake.selection import Selection

MAX_WALK = 100_000  # directory entries; check-config must answer soon on a full share, too

_PLAIN = re.compile(r"\*(\.[^*?\[\]./]+)")


def overlaps(cameras: tuple[Camera, ...]) -> Iterator[str]:
    """A warning for each pair of cameras that may watch the same files; silent only where the globs cannot share one."""
    for first, second in combinations(cameras, 2):
        if _disjoint(first, second):
            continue
        if _meet(first, Path(os.path.abspath(first.folder)), second, Path(os.path.abspath(second.folder))):  # noqa: PTH100 - links stay
            yield f"cameras {first.name} and {second.name} watch the same files; {first.name} gets those that match both"
        elif _meet(first, first.folder.resolve(), second, second.folder.resolve()):
            yield f"cameras {first.name} and {second.name} watch the same files through a link; each file would be judged twice"


def _meet(first: Camera, one: Path, second: Camera, other: Path) -> bool:
    return one == other or (first.recursive and other.is_relative_to(one)) or (second.recursive and one.is_relative_to(other))


def _disjoint(first: Camera, second: Camera) -> bool:
    """Only plain `*.ext` can be told apart for certain; letter case does not matter to a glob."""
    matches = [[_PLAIN.fullmatch(glob) for glob in camera.include] for camera in (first, second)]
    one, other = ({match.group(1).lower() for match in found if match} for found in matches)
    return all(all(found) for found in matches) and not one & other


def baselines(config: Config) -> Iterator[str]:
    """What `existing = "baseline"` would leave unjudged, for each camera whose folder is readable."""
    recipes = {recipe.name: recipe for recipe in config.recipe}
    for camera in config.camera:
        if camera.existing is not Existing.BASELINE or not os.access(camera.folder, os.R_OK | os.X_OK):
            continue
        files, all_seen = _count(camera, Selection(camera, config.camera, recipes))
        count = f"{'' if all_seen else 'at least '}{files:,} file{'' if files == 1 and all_seen else 's'}"
        yield f"camera {camera.name}: existing = baseline: its first start records {count} now in {camera.folder} as known, not judged"


def _count(camera: Camera, selection: Selection) -> tuple[int, bool]:
    """(files that are this camera's, whether all was looked at)."""
    found, looked, folders = 0, 0, [b""]
    while folders:
        below = folders.pop()
        try:
            entries = os.scandir(os.path.join(os.fsencode(camera.folder), below))  # noqa: PTH118 - names are bytes
        except OSError:
            continue  # gone or closed to this user meanwhile
        with entries:
            for entry in entries:
                if (looked := looked + 1) > MAX_WALK:
                    return found, False
                path = below + b"/" + entry.name if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders += [path] if selection.descends(path) else []
                elif entry.is_file(follow_symlinks=False):
                    found += selection.why_not(path) is None
    return found, True
