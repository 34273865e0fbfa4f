"""One thread for each folder: whatever may block on its mount runs here, so that a hung mount blocks only itself.

Invariants
- Calls run one after the other, in order; the event loop never touches the folder itself.
- The thread is a daemon: a call that never returns does not keep the process from ending.
- A call that makes no progress for `stall_s` is reported as a stall, and its end as the end of the stall; no second thread is begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edged.errors import Unavailable

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class FolderThread:
    """`on_stall(since | None)` is called in the loop when the folder begins to hang (monotonic seconds) and when it answers again."""

    def __init__(self, name: str, on_stall: Callable[[float | None], None], stall_s: float = 5.0) -> None:
        self._name, self._on_stall, self._stall_s = name, on_stall, stall_s
        self._look_s = stall_s / 5  # a call begins a little after it was asked for: one look at its end would come too early
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._beat = 0.0
        self.stalled_since: float | None = None

    def tick(self) -> None:
        """Called from within a long call: it still makes progress."""
        self._beat = time.monotonic()

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread and return its result; waits out a stall."""
        job = self._submit(work)
        while not (await asyncio.wait({job}, timeout=self._look_s))[0]:
            self._look_for_stall()
        self._stalled(None)
        return job.result()

    async def call_briefly(self, work: Callable[[], T]) -> T:
        """As `call`, but raises Unavailable as soon as the folder hangs: for those who must not wait. The work may still happen later."""
        if self.stalled_since is not None:
            raise self._away()
        job = self._submit(work)
        while not (await asyncio.wait({job}, timeout=self._look_s))[0]:
            if self._look_for_stall():
                job.add_done_callback(_forget)
                raise self._away()
        return job.result()

    def close(self) -> None:
        """Ends the thread after what it is doing now; never waits."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread = None

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"folder-{self._name}", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((work, future, loop))
        return future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future, loop = job
            self.tick()
            try:
                outcome: tuple[Any, BaseException | None] = (work(), None)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for it
                outcome = (None, error)
            self.tick()
            # A loop that has ended no longer waits for the answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, *outcome)

    def _look_for_stall(self) -> bool:
        hangs = time.monotonic() - self._beat >= self._stall_s
        if hangs:
            self._stalled(self._beat)
        return hangs

    def _stalled(self, since: float | None) -> None:
        if (since is None) != (self.stalled_since is None):
            self.stalled_since = since
            self._on_stall(since)

    def _away(self) -> Unavailable:
        return Unavailable(f"folder:{self._name}", "the folder does not answer", "Check the share and the network to it.")


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _forget(job: asyncio.Future[Any]) -> None:
    if not job.cancelled():
        job.exception()
