"""One Triton: away -> live, its rings registered, its models kept by their own tasks.

Invariants
- The first look at a Triton that is back registers the rings before any model becomes ready.
- Losing it fails at once everything that waits for it; nothing waits for a lost peer until its deadline.
- What is remote (not on loopback) never gets shared memory.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from edged.backoff import Backoff
from edged.config import SharedMemory, Triton
from edged.inference.client import RECONNECT_MS, CallFailed, TritonClient
from edged.inference.rings import RingFacts, Rings
from edged.inference.served import LOOK_S, ServedModel
from edged.inference.states import EndpointSnapshot

RETIRE_S = 0.2
RECONNECT_LOCAL_MS = 500
"""On loopback a refused connection costs nothing, and the first result after an outage should not wait for the next try."""
_RETRY = Backoff(first_s=0.1, cap_s=1.0)


class Endpoint:
    """`name`: "local" for the first, else the address; it stands in each result. `on_change` is told after every look and change."""

    def __init__(
        self,
        name: str,
        address: str,
        config: Triton,
        on_change: Callable[[], None],
        sample: Callable[[], float] = random.random,
    ) -> None:
        self.name, self.address = name, address
        self.live = self.looked = False
        self.cause = "no answer yet"
        self.version = ""
        self.since = datetime.now(UTC)
        self.rings = Rings(wanted=config.shared_memory is SharedMemory.AUTO and on_loopback(address))
        self.models: dict[str, ServedModel] = {}
        self._largest = 0
        self._client: TritonClient | None = None
        self._narrow: list[TritonClient] = []
        self._closed = False
        self._on_change, self._sample = on_change, sample
        self._wake = asyncio.Event()

    @property
    def client(self) -> TritonClient:
        """CallFailed once the endpoint is closed."""
        if self._closed:
            raise CallFailed(grpc.StatusCode.CANCELLED, "the connection was closed")
        if self._client is None:
            self._client = TritonClient(self.address, self._largest, RECONNECT_LOCAL_MS if on_loopback(self.address) else RECONNECT_MS)
        return self._client

    def carry(self, message_bytes: int) -> None:
        """Messages of this size will come: where they do not fit, new calls go over a wider channel; those under way stay on theirs."""
        self._largest = max(self._largest, message_bytes)
        if self._client is not None and self._client.limit < self._largest:
            self._narrow.append(self._client)
            self._client = None

    async def run(self) -> None:
        """Looks at Triton every two seconds, at once when something failed, with backoff while it is away. Ends only by cancellation."""
        attempt = 0
        while True:
            self._wake.clear()
            try:
                settled = await self._look()
            except CallFailed as failure:
                attempt += 1
                self.lost(failure.message)
                self._wake.clear()
                delay_s = _RETRY.delay_s(attempt, self._sample())
            else:
                attempt = 0
                delay_s = LOOK_S if settled else RETIRE_S
            self.looked = True
            self._on_change()
            await self._pause(delay_s)

    async def _pause(self, seconds: float) -> None:
        """Until `look`; while Triton is away also until the connection stands again: its first look must not wait for a backoff."""
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(self._wake.wait(), name=f"triton {self.name} woken")}
        if not self.live and not self._closed:
            waits.add(asyncio.create_task(self.client.connected(), name=f"triton {self.name} connected"))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _look(self) -> bool:
        """True if nothing is left to do before the next look."""
        await self.client.live()
        if not self.live:
            self.version = await self.client.version()
        settled = await self.rings.ensure(self.client)
        if not self.live:
            self.live, self.cause, self.since = True, "", datetime.now(UTC)
            for model in self.models.values():
                model.look()
        return settled

    def lost(self, cause: str) -> None:
        """A call found nobody there."""
        self.rings.suspend()
        if self.live:
            self.since = datetime.now(UTC)
        self.live, self.cause = False, cause
        for model in self.models.values():
            model.away(cause)
        self.look()

    def look(self) -> None:
        """Something happened: look at Triton now."""
        self._wake.set()

    def changed(self) -> None:
        self._on_change()

    def add_ring(self, facts: RingFacts) -> None:
        self.rings.add(facts)
        self.look()

    async def close(self) -> None:
        """Takes the rings back and hangs up; calls under way end."""
        client, self._client, self._closed = self._client, None, True
        if client is not None:
            await self.rings.withdraw(client)
            await client.close()
        for narrow in self._narrow:
            await narrow.close()

    def snapshot(self) -> EndpointSnapshot:
        return EndpointSnapshot(
            name=self.name,
            address=self.address,
            live=self.live,
            version=self.version,
            cause=self.cause,
            shared_memory=self.rings.in_use,
            shared_memory_problem=self.rings.problem,
            blocked_slots=self.rings.blocked,
        )


def on_loopback(address: str) -> bool:
    """Whether `host:port` names this machine: only there can shared memory be shared."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
