"""Bounded channels between two stages.

Invariants
- At most `capacity` items wait; a full channel blocks its sender (the sender suffers, nothing is dropped).
- `close()` never blocks. Items sent before it are still received; then every receiver's loop ends.
- A send on a closed channel raises `ChannelClosed`.
- Of several lanes a full one blocks its own senders only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosed(Exception):  # noqa: N818 - it names a state
    """Sent on, or received from, a channel that is closed (and drained)."""


class Channel(Generic[T]):
    """FIFO of at most `capacity` items, many senders, many receivers. What happens wakes one of those who wait for it, not all."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._senders: deque[asyncio.Future[None]] = deque()
        self._receivers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        return self._closed

    async def send(self, item: T) -> None:
        while not self._closed and len(self._items) >= self.capacity:
            await _woken(self._senders)
        if self._closed:
            raise ChannelClosed
        self._items.append(item)
        _wake_one(self._receivers)

    async def receive(self) -> T:
        while not self._items:
            if self._closed:
                raise ChannelClosed
            await _woken(self._receivers)
        item = self._items.popleft()
        _wake_one(self._senders)
        return item

    async def close(self) -> None:
        self._closed = True
        for waiting in (self._senders, self._receivers):
            while waiting:
                _wake_one(waiting)

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                yield await self.receive()
            except ChannelClosed:
                return


class Lanes(Generic[T]):
    """One channel for each name; `lane_of` says which one an item takes (KeyError if there is none of that name)."""

    def __init__(self, names: Iterable[str], lane_of: Callable[[T], str], capacity: int) -> None:
        self.lanes: Mapping[str, Channel[T]] = {name: Channel(capacity) for name in names}
        self._lane_of = lane_of

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    async def send(self, item: T) -> None:
        await self.lanes[self._lane_of(item)].send(item)

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.close()


async def _woken(waiting: deque[asyncio.Future[None]]) -> None:
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.append(woken)
    try:
        await woken
    except asyncio.CancelledError:
        if not woken.cancelled():
            _wake_one(waiting)  # what it was woken for is another's now
        elif woken in waiting:
            waiting.remove(woken)
        raise


def _wake_one(waiting: deque[asyncio.Future[None]]) -> None:
    while waiting:
        woken = waiting.popleft()
        if not woken.done():
            woken.set_result(None)
            return
