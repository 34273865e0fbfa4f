"""The requests nobody works on yet, first come first served.

Invariants
- A request is here, with one process, or answered. The slots of one that nobody waits for any more are given back on the way out.
- In a backlog small files travel together: a message each way costs more than all else the daemon does for an image.
- What could not be sent travels alone from then on, and is answered when that fails too: a message nobody can take holds up nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from edged.vision.members import Request
from edged.vision.slots import Granted

BATCH, BATCH_BYTES = 8, 1 << 20
MOST_UNSENT = 3


class Backlog:
    """`give_back` frees the slots of requests that were abandoned."""

    def __init__(self, give_back: Callable[[Granted], None]) -> None:
        self._give_back = give_back
        self._queue: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Request]:
        """Over those that are here now, whatever comes and goes meanwhile."""
        return iter(tuple(self._queue))

    def __contains__(self, request: Request) -> bool:
        return request in self._queue

    def add(self, request: Request) -> None:
        self._queue.append(request)

    def withdraw(self, request: Request) -> bool:
        """Whether it was here still: then its slots are free."""
        if request not in self._queue:
            return False
        self._queue.remove(request)
        self._give_back(request.slots)
        return True

    def cancel(self) -> None:
        for request in self._queue:
            request.answer.cancel()
        self._queue.clear()

    def take(self, first: Request, stalled: set[str], processes: int) -> list[Request]:
        """`first` and those that travel with it to one of `processes`; no camera of `stalled` has company."""
        self._queue.remove(first)
        room = min(BATCH, -(-len(self._queue) // processes))
        batch, nbytes = [first], first.job.size
        if not first.whole or first.camera in stalled:
            return batch
        for request in self._queue:
            nbytes += request.job.size
            if len(batch) >= room or nbytes > BATCH_BYTES or not request.whole or request.camera in stalled:
                break
            batch.append(request)
        for _ in batch[1:]:
            self._queue.popleft()
        return batch

    def again(self, requests: list[Request]) -> None:
        """Back to the head: nothing that happened was theirs."""
        for request in reversed(requests):
            if request.abandoned:
                self._give_back(request.slots)
            else:
                self._queue.appendleft(request)

    def unsent(self, requests: list[Request], settle: Callable[[Request, dict[str, Any]], None]) -> None:
        """Back to the head, each on its own now; one that failed often is settled."""
        for request in requests:
            request.unsent, request.whole = request.unsent + 1, False
        for request in [request for request in requests if request.unsent >= MOST_UNSENT]:
            settle(request, request.settled("unsent", f"{MOST_UNSENT} decoder processes could not be told about it"))
        self.again([request for request in requests if request.unsent < MOST_UNSENT])
