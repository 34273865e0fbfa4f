"""The files beside the images that a decoder process keeps ready: flat fields and golden references.

Both are looked at (stat) for every image and read again when they changed.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edged.errors import FrameRejected
from edged.nouns import InputPlan
from edged.vision.decode import decode
from edged.vision.headers import Limits, inspect
from edged.vision.prepare import Prepared
from edged.vision.reading import ReadFailed, read

_REFERENCES_KEPT = 8
_Stamp = tuple[int, int, int]


class FlatFieldMissing(Exception):  # noqa: N818 - it names what happened
    """The flat field a recipe names cannot be used: its images cannot be prepared until it is back."""

    kind = "flat-field"


@dataclass(frozen=True, slots=True)
class Flat:
    image: NDArray[Any]
    sha256: str


class Sidefiles:
    """Caches by path and stamp (mtime, size, inode)."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._flats: dict[str, tuple[_Stamp, Flat]] = {}
        self._references: OrderedDict[tuple[Any, ...], Prepared] = OrderedDict()

    def flat(self, plan: InputPlan) -> Flat | None:
        """The plan's flat field, None when it has none. Raises FlatFieldMissing."""
        path = plan.preprocess.flat_field
        if path is None:
            return None
        stamp = _stamp(path)
        known = self._flats.get(path)
        if stamp is not None and known is not None and known[0] == stamp:
            return known[1]
        found = self._load(path, colour=False)
        if found is None or stamp is None:
            raise FlatFieldMissing(f"the flat field {path} is missing or no image")
        self._flats[path] = stamp, Flat(*found)
        return self._flats[path][1]

    def reference(self, paths: Sequence[str], plan: InputPlan, flat: Flat | None, page: Prepared) -> Prepared | None:
        """The golden page, of the first path that is a file, for `plan`; None when it is missing, unreadable or not of the page's size."""
        found = next(((path, stamp) for path in paths if (stamp := _stamp(path)) is not None), None)
        if found is None:
            return None
        path, stamp = found
        key = path, stamp, plan, flat.sha256 if flat else None
        if (known := self._references.get(key)) is not None:
            self._references.move_to_end(key)
            return known if known.page_shape == page.page_shape else None
        golden = self._load(path, colour=plan.preprocess.colour == "rgb")
        if golden is None or golden[0].shape[:2] != page.page_shape:
            return None
        try:
            prepared = Prepared(golden[0], plan, flat.image if flat else None)
        except FrameRejected:
            return None
        self._references[key] = prepared
        if len(self._references) > _REFERENCES_KEPT:
            self._references.popitem(last=False)
        return prepared

    def _load(self, path: str, *, colour: bool) -> tuple[NDArray[Any], str] | None:
        folder, name = os.path.split(os.fsencode(path))
        try:
            content = read(folder or b".", name, None, self._limits.max_file_bytes, 0.0, lambda: None)
            if content.data is None:
                return None
            return decode(content.data, inspect(content.data, self._limits), colour=colour), content.sha256
        except (ReadFailed, FrameRejected):
            return None


def _stamp(path: str) -> _Stamp | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once an image, in the hot path
    except (OSError, ValueError):  # ValueError: a name no file system knows
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
