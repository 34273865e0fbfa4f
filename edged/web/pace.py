"""How often one client may ask for a change: `BURST` at once, then `PER_S` a second."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from edged.web.answers import Refused
from edged.web.fence import READING

BURST = 100
PER_S = 10.0
CLIENTS = 1024


class Pace:
    """Remembers the newest `CLIENTS`, each by the moment from which it would have its whole burst again."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._rested: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """0: it may, and this one counts. Else how long until it may."""
        now = self._monotonic()
        rested = max(self._rested.pop(client, now), now)
        wait_s = max(0.0, rested - now - (BURST - 0.5) / PER_S)  # half a turn of slack: sums of fractions are not exact
        self._rested[client] = rested if wait_s else rested + 1 / PER_S
        while len(self._rested) > CLIENTS:
            self._rested.popitem(last=False)
        return wait_s


def check_pace() -> Middleware:
    """429 for a client that asks for changes too often, whether or not it may make them: tokens are not guessed here."""
    pace = Pace()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in READING and (wait_s := pace.wait_s(request.remote or "")):
            seconds = math.ceil(wait_s)
            told = f"At most {BURST} changes at once and {PER_S:g} a second are taken from one client."
            raise Refused(429, told, f"Try again in {seconds} s.", headers={hdrs.RETRY_AFTER: str(seconds)})
        return await handler(request)

    return middleware
