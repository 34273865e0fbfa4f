"""One life of the daemon: opened as soon as its disk allows, served until a signal, ended by a bug.

Invariants
- A second signal ends the process at once.
- An exception that nobody expected, in a task or in a callback of the loop, ends the process with 1, and systemd starts it anew.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from edged import __version__
from edged.config import Config
from edged.daemon import Daemon
from edged.errors import Unavailable
from edged.threads import warm_pool
from edged.vitals.health import HealthBoard
from edged.vitals.notify import Notifier

log = structlog.get_logger("edged.daemon")

OPEN_AGAIN_S = 2.0
THREADS = 8
"""For short calls that may block."""


async def run(config: Config, file: Path) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    stop = asyncio.Event()
    _on_signals(stop)
    asyncio.get_running_loop().set_default_executor(warm_pool(THREADS, "worker"))
    board = HealthBoard(needs=("ledger", "triton", *(f"folder:{camera.name}" for camera in config.camera)))
    failed = _on_callback_errors()
    async with AsyncExitStack() as stack:
        daemon = await _opened(config, board, stack, stop)
        if daemon is not None:
            log.info("daemon.started", version=__version__, config=str(file), pid=os.getpid())
            await daemon.serve(stop, failed)
    log.info("daemon.stopped")
    return 0


async def _opened(config: Config, board: HealthBoard, stack: AsyncExitStack, stop: asyncio.Event) -> Daemon | None:
    """A disk that is full or read-only at the start is waited for: else systemd would start us in circles. None: `stop` came."""
    told, notifier = "", Notifier()
    while not stop.is_set():
        async with AsyncExitStack() as attempt:
            try:
                daemon = await Daemon.open(config, board, attempt)
            except Unavailable as error:
                if error.lasting:
                    raise
                if told != error.cause:
                    log.warning("daemon.waits", what=error.what, cause=error.cause, hint=error.hint)
                    told = error.cause
            else:
                stack.push_async_exit(attempt.pop_all())  # so that who closes learns of an exception
                return daemon
        notifier.extend_timeout(10 * OPEN_AGAIN_S)
        notifier.status(f"waits for {told}")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), OPEN_AGAIN_S)
    return None


def _on_callback_errors() -> asyncio.Future[None]:
    """A future that fails with what a callback of the loop raised: asyncio alone would only log such a bug."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return  # asyncio tries again by itself, and says so for each connection; health says it once
        log.error("daemon.loop", said=context.get("message"), exc_info=error)
        if error is not None and "handle" in context and not failed.done():
            failed.set_exception(error)

    loop.set_exception_handler(handle)
    return failed


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal asks; it also puts the default back, so that the second kills."""
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        log.info("daemon.signal", signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number)
