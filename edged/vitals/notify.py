"""Talking to systemd: readiness, watchdog, status line. Without systemd every call does nothing.

Invariants
- WATCHDOG=1 is sent only when `advancing()` says True at that moment; a text instead says what is stuck, and systemd is left to act.
- Nothing here raises when the socket is gone: a missing supervisor must not stop the inspection.

The protocol is one datagram of `KEY=value` lines, so it is spoken directly: one code path, on every machine.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

STATUS_EVERY_S = 10.0


class Notifier:
    """Speaks for the main process to the supervisor named by `environ`."""

    def __init__(self, environ: Mapping[str, str] = os.environ, *, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._monotonic_ns = monotonic_ns
        self._log = structlog.get_logger("edged.systemd")
        self.watchdog_s = _watchdog_s(environ)

    @property
    def listening(self) -> bool:
        """Whether a supervisor asked for notifications."""
        return bool(self._address)

    def send(self, *lines: str) -> bool:
        """Sends `KEY=value` lines in one datagram; False when nobody took it."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "") -> bool:
        return self.send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        return self.send(*_status(text))

    def stopping(self, status: str = "") -> bool:
        return self.send("STOPPING=1", *_status(status))

    def reloading(self) -> bool:
        """Followed by `ready()` when the reload is done; MONOTONIC_USEC is what newer systemd asks for."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def extend_timeout(self, seconds: float) -> bool:
        """Asks for more time while draining."""
        return self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    async def run(self, stop: asyncio.Event, advancing: Callable[[], bool | str], status: Callable[[], str] | None = None) -> None:
        """Feeds the watchdog twice per period and keeps STATUS= fresh until `stop`.

        `advancing` answers True, or what is stuck (False: unnamed). `status` gives the line for `systemctl status`.
        """
        if not self.listening:
            await stop.wait()
            return
        every_s = min(self.watchdog_s / 2, STATUS_EVERY_S) if self.watchdog_s else STATUS_EVERY_S
        was: bool | str = True
        while not stop.is_set():
            now = advancing()
            if now is True:
                self.send("WATCHDOG=1", *_status(status() if status else ""))
            else:
                self.send(*_status(f"stuck: {now or 'the pipeline does not advance'}"))
            if (now is True) is not (was is True):
                self._tell(now)
            was = now
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue

    def _tell(self, now: bool | str) -> None:
        if now is True:
            self._log.info("watchdog.fed_again")
        else:
            self._log.warning("watchdog.starved", stuck=now or "the pipeline does not advance", watchdog_s=self.watchdog_s)


def _status(text: str) -> list[str]:
    """One line, so that no text can smuggle in another assignment."""
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """The watchdog's period when it is meant for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1_000_000 if usec.isdecimal() and int(usec) > 0 else None
