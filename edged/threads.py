"""Pools whose threads are all there from the start: one that may start no more threads later must not find that out with an image."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor


def warm_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Every thread is started before this returns. RuntimeError: not even these may be started."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    together = threading.Barrier(threads + 1)
    try:
        for _ in range(threads):  # each waits for all the others, so none takes two
            pool.submit(together.wait)
    except RuntimeError:
        together.abort()  # else they would wait for ever, and the process for them
        pool.shutdown()
        raise
    together.wait()
    return pool
