"""The decoders' rings of shared memory, as one Triton has them registered.

Invariants
- A ring is registered at most once at a time, under a name that is never used again: requests that name an old registration are refused.
- After a request was lost in between (no answer came), its slots wait in limbo until that registration is gone from Triton.
- No registration, for whatever reason: images travel as bytes. That is worth one health note, not a failure.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from edged.inference.client import CallFailed, TritonClient
from edged.inference.slots import Entry

SHM = Path("/dev/shm")  # noqa: S108 - system shared memory has this one place on Linux
PREFIX = "edged-ring-"
WITHDRAWALS = 5
WITHDRAWAL_S = 0.05


class RingFacts(Protocol):
    """One ring of the decoders: its name, its file below /dev/shm, its size."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str | Path: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(slots=True)
class _Ring:
    facts: RingFacts
    region: str | None = None
    old: str | None = None  # a registration that must go before a new one is made
    limbo: list[Entry] = field(default_factory=list)

    @property
    def key(self) -> str:
        """As shm_open wants it: one leading slash, relative to /dev/shm."""
        path = PurePosixPath(self.facts.path)
        return f"/{path.relative_to(SHM) if path.is_relative_to(SHM) else path.name}"


class Rings:
    """`wanted` False: never register (a remote endpoint, or shared memory switched off). `problem`: why bytes are used instead, or ''."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.problem = ""
        self._rings: dict[str, _Ring] = {}
        self._token = secrets.token_hex(4)
        self._count = 0
        self._refused = False
        self._owed: set[Entry] = set()
        self._slots: dict[str, int] = {}

    def add(self, facts: RingFacts) -> None:
        self._rings.setdefault(facts.name, _Ring(facts))

    def region(self, ring: str) -> str | None:
        """The name Triton knows the ring by; None: send bytes."""
        known = self._rings.get(ring)
        return known.region if known else None

    @property
    def in_use(self) -> bool:
        return any(ring.region for ring in self._rings.values())

    @property
    def blocked(self) -> int:
        """Slots of requests that are overdue or lost, which Triton may still read."""
        return sum(self._blocked().values())

    def exhausted(self, names: Collection[str]) -> bool:
        """Every slot of one of these rings is blocked."""
        if not self._owed:  # asked for each image
            return False
        blocked = self._blocked()
        return any(blocked[name] >= self._slots[name] for name in names if name in self._slots)

    def owed(self, entries: Sequence[Entry]) -> None:
        """Triton owes an answer for these: nobody waits for it any more but their slots."""
        for entry in entries:
            if entry.in_hand:
                self._owed.add(entry)
                tensor = entry.tensor
                if (ring := self._rings.get(tensor.ring)) is not None:
                    self._slots[tensor.ring] = ring.facts.nbytes // tensor.nbytes

    def _blocked(self) -> Counter[str]:
        self._owed = {entry for entry in self._owed if entry.in_hand}
        return Counter(entry.tensor.ring for entry in self._owed)

    def lost(self, entries: Sequence[Entry]) -> None:
        """No answer will come for these, and nobody knows whether Triton still reads them."""
        self.owed(entries)
        for entry in entries:
            ring = self._rings[entry.tensor.ring]
            ring.limbo.append(entry)
            if ring.region:
                ring.old, ring.region = ring.region, None

    def refused(self, cause: str) -> None:
        """Triton refused a request for its place in shared memory: bytes until the connection is made anew."""
        self.suspend()
        self._refused, self.problem = True, f"Triton refused a request in shared memory: {cause}"

    def suspend(self) -> None:
        """The connection, or Triton's memory of the rings, is lost: until `ensure` has looked, bytes it is."""
        self._refused = False
        for ring in self._rings.values():
            if ring.region:
                ring.old, ring.region = ring.region, None

    async def ensure(self, client: TritonClient) -> bool:
        """Brings every ring's registration up to date; True if there is nothing left to do. CallFailed if Triton is away."""
        if not self.wanted or not self._rings:
            return True
        there = await client.regions()
        settled = True
        for ring in self._rings.values():
            if ring.region is not None and ring.region not in there:
                ring.region = None  # Triton was restarted
            if ring.old is not None and not await self._retire(client, ring, there):
                settled = False
            elif ring.region is None and not self._refused:
                await self._register(client, ring, there)
        return settled

    async def withdraw(self, client: TritonClient) -> None:
        """Takes every registration back, as far as Triton is there to do so."""
        self.suspend()
        try:
            for _ in range(WITHDRAWALS):
                left = [ring for ring in self._rings.values() if ring.old]
                there = await client.regions() if left else {}
                if all([await self._retire(client, ring, there) for ring in left]):
                    return
                await asyncio.sleep(WITHDRAWAL_S)  # the last answer came a moment ago
        except CallFailed:
            return  # a Triton that is away forgets by itself, or the next daemon takes the stale names back

    async def _retire(self, client: TritonClient, ring: _Ring, there: Mapping[str, str]) -> bool:
        """The old registration is gone, and with it every way to the slots in limbo. False: a request still uses it, try again."""
        if ring.old is not None and ring.old in there:
            try:
                await client.unregister(ring.old)
            except CallFailed as error:
                if error.answered:
                    return False
                raise
        ring.old = None
        freed, ring.limbo = ring.limbo, []
        for entry in freed:
            entry.returned()
        return True

    async def _register(self, client: TritonClient, ring: _Ring, there: Mapping[str, str]) -> None:
        for region, key in there.items():
            # left by a daemon that was killed: its ring is gone, or is ours by now
            if region.startswith(PREFIX) and region != ring.region and (key == ring.key or not (SHM / key.lstrip("/")).exists()):
                try:
                    await client.unregister(region)
                except CallFailed as error:
                    if not error.answered:
                        raise
        self._count += 1
        region = f"{PREFIX}{self._token}-{self._count}"
        try:
            await client.register(region, ring.key, ring.facts.nbytes)
        except CallFailed as error:
            if not error.answered:
                raise
            self.problem = f"Triton cannot map the ring {ring.key}: {error.message}"
            return
        ring.region, self.problem = region, ""
