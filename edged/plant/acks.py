"""What the MES has acknowledged and the outbox does not know yet: the newest word on each (epoch, kind).

An acknowledgement says all that the earlier ones said, so a burst of them costs one look, and the last one, which matters most, is never
the one that finds no room.
"""

from __future__ import annotations

import asyncio

from edged.plant.schema import Ack

MOST = 64
"""A ledger holds few epochs: whoever names more makes them up."""


class Acks:
    """Put and taken on the loop."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], Ack] = {}
        self._there = asyncio.Event()

    def put(self, ack: Ack) -> None:
        key = ack["epoch"], ack["kind"]
        if key in self._newest or len(self._newest) < MOST:
            self._newest[key] = ack
            self._there.set()

    async def get(self) -> Ack:
        """The one that waits longest."""
        while not self._newest:
            self._there.clear()
            await self._there.wait()
        return self._newest.pop(next(iter(self._newest)))
