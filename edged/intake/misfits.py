"""Files that cannot become landings: links, FIFOs, devices, unreadable ones, those that went away. None of them in silence."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from edged.intake.looking import Sight
from edged.nouns import display_name

MAX_REMEMBERED = 1000


class Misfits:
    """One camera's. `odd` and `unreadable` map a path to a sentence for the trace; `tell(kind, data)` queues an event."""

    def __init__(self, camera: str, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._camera, self._tell = camera, tell
        self.odd: OrderedDict[bytes, str] = OrderedDict()
        self.unreadable: dict[bytes, str] = {}
        self._lost: dict[int, tuple[bytes, float]] = {}

    def forget(self, path: bytes) -> bool:
        """It is a readable regular file after all, or gone. True when it was an odd one."""
        self.unreadable.pop(path, None)
        return self.odd.pop(path, None) is not None

    def odd_one(self, sight: Sight) -> None:
        """No landing and no result, but an event, once while it lies there."""
        if sight.path not in self.odd:
            self._tell("ignored", {"camera": self._camera, "file": display_name(sight.path), "cause": f"it is a {sight.what}"})
        self.odd[sight.path] = f"it is a {sight.what}, not a regular file"
        while len(self.odd) > MAX_REMEMBERED:
            self.odd.popitem(last=False)

    def lost(self, path: bytes, inode: int, present: set[int]) -> None:
        """A file under observation is gone from its name; perhaps it was only renamed, and the next listing shows it."""
        if inode == 0:  # it was never looked at: nothing could show it again
            self.vanished(path)
        elif inode not in present:
            self._lost[inode] = (path, time.monotonic())

    def found_again(self, inode: int) -> None:
        self._lost.pop(inode, None)

    def tell_vanished(self, listed_from: float) -> None:
        """After a listing that began at `listed_from`: what was lost before and came back under no other name is gone."""
        for inode, (path, at) in list(self._lost.items()):
            if at < listed_from:
                del self._lost[inode]
                self.vanished(path)

    def vanished(self, path: bytes) -> None:
        self._tell("vanished", {"camera": self._camera, "file": display_name(path), "cause": "it was gone before it was judged"})
