"""Sidecars that come after their image was judged: noticed by hint or listing, read once they are whole, sent on.

Invariants
- Only sidecars of images that the ledger still waits for are read; a folder full of old ones costs a look at memory each.
- A sidecar whose image is on its way to its verdict waits for it: by then the ledger knows that it is late.
- One that is broken may be half-written: it is looked at again at each poll. At most `MAX_BROKEN` are remembered; the reconcile pass and a
  restart show every one anew.
"""

# ruff: noqa: PTH122
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import structlog

from edged.channel import Channel
from edged.intake.folder import Folder
from edged.intake.identity import broken_sidecar, explain
from edged.intake.outgoing import Outgoing
from edged.intake.sidecar import SUFFIXES
from edged.nouns import LateSidecar, display_name

log = structlog.get_logger("edged.intake")

BATCH: Final = 256
MAX_BROKEN: Final = 1000
MAX_TOLD: Final = 10_000
FLIGHT_S: Final = 0.25


class Awaiting(Protocol):
    async def awaiting(self, camera: str, stems: Sequence[bytes]) -> Sequence[tuple[bytes, str]]: ...


class Latecomers:
    """One camera's."""

    def __init__(self, folder: Folder, recall: Awaiting, outgoing: Outgoing, late: Channel[LateSidecar]) -> None:
        self._folder, self._recall, self._outgoing, self._late = folder, recall, outgoing, late
        self._sources = folder.camera.identity
        kinds = {source.kind for source in self._sources} & SUFFIXES.keys()
        self._suffixes = tuple(os.fsencode(suffix) for kind in kinds for suffix in SUFFIXES[kind])
        self._fresh: dict[bytes, None] = {}
        self._again: dict[bytes, float] = {}
        self._told: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._said: set[bytes] = set()

    def hint(self, path: bytes) -> None:
        """Something happened to a file that is no image."""
        if self._suffixes and path.endswith(self._suffixes):
            self._fresh[os.path.splitext(path)[0]] = None

    async def listed(self, paths: Sequence[bytes]) -> None:
        """A listing showed these, which are no images. Only what is waited for is remembered."""
        stems = [os.path.splitext(path)[0] for path in paths if path.endswith(self._suffixes)] if self._suffixes else []
        if stems:
            flying = self._flying()
            self._fresh.update((stem, None) for stem in stems if stem in flying)
            found = await self._recall.awaiting(self._folder.camera.name, stems)
            self._fresh.update((os.path.splitext(path)[0], None) for path, _ in found)

    def next_due(self) -> float:
        return 0.0 if self._fresh else min(self._again.values(), default=float("inf"))

    async def turn(self) -> None:
        """Raises Unavailable when the folder or the ledger is away; nothing is forgotten then."""
        now = time.monotonic()
        for stem in [stem for stem, due in self._again.items() if due <= now]:
            del self._again[stem]
            self._fresh[stem] = None
        if not self._fresh:
            return
        flying = self._flying()
        stems = list(self._fresh)[:BATCH]
        for stem in stems:
            if stem in flying:
                self._later(stem, FLIGHT_S)
        settled = [stem for stem in stems if stem not in flying]
        found = await self._recall.awaiting(self._folder.camera.name, settled) if settled else []
        for path, id_ in found:
            await self._one(path, id_)
        for stem in stems:
            self._fresh.pop(stem, None)

    async def _one(self, path: bytes, id_: str) -> None:
        sidecars, unread = await self._folder.sidecars(path)
        broken = broken_sidecar(self._sources, path, sidecars, unread)
        stem = os.path.splitext(path)[0]
        if broken is not None:
            if stem not in self._said:
                facts = {"camera": self._folder.camera.name, "image": display_name(path), "reason": broken[1]}
                log.info("intake.late_sidecar_unreadable", **facts, hint="It is looked at again until it can be read.")
                self._said.add(stem)
            self._later(stem, self._folder.camera.poll_s)
            return
        source = explain(self._sources, path, sidecars).source
        kind = None if source is None else self._sources[source].kind
        if kind not in sidecars:
            return  # it says nothing of who the image is
        key = (id_, hash(sidecars[kind]))
        if key in self._told:
            return
        if len(self._late) >= self._late.capacity:
            self._later(stem, self._folder.camera.poll_s)
            return
        self._said.discard(stem)
        self._told[key] = None
        while len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        await self._late.send(LateSidecar(self._folder.camera.name, id_, path, str(kind), sidecars[kind]))

    def _later(self, stem: bytes, in_s: float) -> None:
        if len(self._again) < MAX_BROKEN:
            self._again[stem] = time.monotonic() + in_s
        self._fresh.pop(stem, None)

    def _flying(self) -> set[bytes]:
        """Stems of the images that are on their way to their verdict."""
        flights: Iterable[bytes] = self._outgoing.flights
        return {os.path.splitext(path)[0] for path in flights}
