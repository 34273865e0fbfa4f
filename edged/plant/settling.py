"""What became of the rows that were sent, told to the outbox in batches: one commit for many answers.

Invariants
- A row is in `open` from its sending until the outbox has committed its answer: it is not sent again meanwhile.
- Only 0x00 (and 0x10, where nobody needs to listen) delivers. 0x10 holds exactly its topic. A refusal parks the row and says so, once for
  many; a refused event is not announced by another event.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edged.config.peers import Confirm, Mqtt, NoSubscriber
from edged.failpoints import reach
from edged.nouns import OutboxRow
from edged.plant.outbox import Announcement, Outbox

NO_SUBSCRIBER = 0x10
QUOTA = 0x97
PARK_EVERY_S = 1.0
SOONER = 16
"""The first probe of a topic comes after this part of the time between later ones."""
REASONS = {
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x87: "not authorised",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x95: "packet too large",
    0x99: "payload format invalid",
}


@dataclass(slots=True)
class Probe:
    """Of a held topic: when one of its rows is sent next (monotonic)."""

    at: float = 0.0
    wait_s: float = 0.0

    def later(self, now: float, at_most_s: float) -> None:
        """An MES that restarts with its broker is back in seconds: it shall not wait for a minute."""
        self.wait_s = min(at_most_s, 2 * self.wait_s or at_most_s / SOONER)
        self.at = now + self.wait_s


@dataclass(slots=True)
class Topics:
    """What outlives a connection: the held topics; how much the broker took and refused since the start;
    how many rows are put aside now, and topic and reason of the newest."""

    held: dict[str, Probe]
    delivered: int = 0
    refused: int = 0
    parked: int = 0
    last_refusal: str = ""


@dataclass(frozen=True, slots=True)
class _Parked:
    row: OutboxRow
    event: str
    reason: str


class Settler:
    """`changed` is called after each batch; `again` when rows that were passed are due once more; `quota` when the broker asks for less."""

    def __init__(
        self,
        mqtt: Mqtt,
        outbox: Outbox,
        topics: Topics,
        *,
        probe_s: float,
        changed: Callable[[], None],
        again: Callable[[], None],
        quota: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mqtt, self._outbox, self._topics, self._probe_s = mqtt, outbox, topics, probe_s
        self._changed, self._again, self._quota, self._monotonic = changed, again, quota, monotonic
        self.open: set[int] = set()
        self._probes: set[int] = set()
        self._answers: list[tuple[OutboxRow, int]] = []
        self._held: defaultdict[str, list[OutboxRow]] = defaultdict(list)
        self._parked: list[_Parked] = []
        self._park_at = 0.0
        self._work = asyncio.Event()
        self._ended = False

    def sent(self, row: OutboxRow, *, probe: bool = False) -> None:
        self.open.add(row.row)
        if probe:
            self._probes.add(row.row)

    def answered(self, row: OutboxRow, code: int) -> None:
        self._answers.append((row, code))
        self._work.set()

    def hold(self, row: OutboxRow) -> None:
        """Not sent: its topic is held."""
        self.open.add(row.row)
        self._held[row.topic].append(row)
        self._work.set()

    def park(self, row: OutboxRow, event: str, reason: str) -> None:
        """To be put aside and announced as `event`."""
        self.open.add(row.row)
        self._parked.append(_Parked(row, event, reason))
        self._topics.refused += 1
        self._work.set()

    @property
    def busy(self) -> bool:
        return bool(self._answers or self._held or self._parked)

    def end(self) -> None:
        """`run` settles what is there, and returns."""
        self._ended = True
        self._work.set()

    async def run(self) -> None:
        while not (self._ended and not self.busy):
            wait_s = max(0.0, self._park_at - self._monotonic()) if self._parked else None
            if not self._ended and not self._answers and not self._held:
                await _wait(self._work, wait_s)
            self._work.clear()
            await self._settle()
            if self._parked and (self._ended or self._monotonic() >= self._park_at):
                await self._put_aside()
            self._changed()

    async def _settle(self) -> None:
        answers, self._answers = self._answers, []
        held, self._held = self._held, defaultdict(list)
        taken: list[OutboxRow] = []
        heard: set[str] = set()
        for row, code in answers:
            if code < 0x80 and (code != NO_SUBSCRIBER or self._accepts(row)):
                taken.append(row)
                heard.add(row.topic)
            elif code == NO_SUBSCRIBER:
                held[row.topic].append(row)
                heard.discard(row.topic)
            elif code == QUOTA:
                self._quota()
                self._close([row])
            else:
                self.park(row, "publish-refused", f"0x{code:02X} {REASONS.get(code, 'refused')}")
        await self._take(taken)
        for topic, rows in held.items():
            if topic in heard:  # somebody came while these were under way
                self._close(rows)
                self._again()
            else:
                await self._hold(topic, rows)
        for topic in heard & self._topics.held.keys():
            del self._topics.held[topic]
            await self._outbox.release(topic, ("no-subscriber", {"topic": topic, "state": "released"}))

    def _accepts(self, row: OutboxRow) -> bool:
        """Nobody needs to listen to it."""
        return row.kind == "event" or self._mqtt.no_subscriber is NoSubscriber.ACCEPT

    async def _take(self, rows: Sequence[OutboxRow]) -> None:
        mes = self._mqtt.confirm_kinds if self._mqtt.confirm is Confirm.MES else ()
        if done := [row for row in rows if row.kind not in mes]:
            await self._outbox.delivered([row.row for row in done])
        if waiting := [row for row in rows if row.kind in mes]:
            await self._outbox.accepted([row.row for row in waiting], self._mqtt.ack_timeout_s)
        reach("outbox.delivered")
        self._topics.delivered += len(rows)
        self._close(rows)

    async def _hold(self, topic: str, rows: Sequence[OutboxRow]) -> None:
        new = topic not in self._topics.held
        if new:
            self._topics.held[topic] = probe = Probe()
            probe.later(self._monotonic(), self._probe_s)
        # A probe's row is held already.
        numbers = [row.row for row in rows if row.row not in self._probes]
        said: Announcement | None = ("no-subscriber", {"topic": topic, "state": "held"}) if new else None
        if numbers or said:
            await self._outbox.hold(topic, numbers, said)
            reach("outbox.held")
        self._close(rows)

    async def _put_aside(self) -> None:
        parked, self._parked = self._parked, []
        self._park_at = self._monotonic() + PARK_EVERY_S
        groups: defaultdict[tuple[str, ...], list[OutboxRow]] = defaultdict(list)
        for each in parked:
            groups[each.event, each.reason, each.row.topic, each.row.kind, each.row.epoch].append(each.row)
        for (event, reason, topic, kind, epoch), rows in groups.items():
            sequences = [list(span) for span in spans(row.sequence for row in rows)]
            data: dict[str, Any] = {"topic": topic, "reason": reason, "kind": kind, "epoch": epoch, "sequences": sequences}
            await self._outbox.park([row.row for row in rows], reason, None if kind == "event" else (event, data))
            reach("outbox.parked")
            self._close(rows)
        await self.count_parked()

    async def count_parked(self) -> None:
        self._topics.parked, self._topics.last_refusal = await self._outbox.parked()
        self._changed()

    def _close(self, rows: Iterable[OutboxRow]) -> None:
        numbers = [row.row for row in rows]
        self.open.difference_update(numbers)
        self._probes.difference_update(numbers)


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Inclusive ranges that cover exactly these numbers."""
    out: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if out and out[-1][1] == number - 1:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
