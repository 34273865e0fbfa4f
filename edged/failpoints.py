"""Named places on an image's way where a test may kill, stop, slow or fail the process: `EDGED_FAILPOINTS="ledger.committed=kill@3"`.

    EDGED_FAILPOINTS = spec ["," spec ...]        spec = point ["[" detail "]"] "=" action ["@" hit ["+"]]
    action = kill (SIGKILL to ourselves) | stop (SIGSTOP) | abort (SIGABRT, as a watchdog sends) | raise (an exception nobody expects)
           | eat (all the memory there is) | delay:SECONDS

`detail` narrows a point to one image (its path below the camera's folder). `@3`: at the third time only; `@3+`: from then on; else at the
first.

Invariants
- Nothing is armed but by `arm`, which `edged run` calls with the environment's word before it opens anything.
- Every point of the source stands in `POINTS`, and every one of `POINTS` in the source: a test compares them.
- Unarmed, a point costs a call and a look at an empty dict, some tens of nanoseconds.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from typing import Final

from edged.errors import ConfigError, ConfigProblem

VARIABLE: Final = "EDGED_FAILPOINTS"

POINTS: Final = {
    "intake.baselined": "a piece of what lay in a folder at the camera's first start is known",
    "intake.sent": "a landing went into the channel",
    "image.taken": "a worker took it from the channel",
    "image.decoded": "a part of a page came from its decoder",
    "image.inferred": "the models answered for that part",
    "image.judged": "all its pages are judged, nothing is recorded",
    "ledger.uncommitted": "a group is written, its COMMIT not begun",
    "ledger.committed": "COMMIT returned, nobody was told",
    "image.recorded": "the pipeline knows that it is recorded",
    "quarantine.copied": "a rejected image's copy is whole, under a name of its own",
    "quarantine.kept": "the copy has its name",
    "disposal.aside": "the judged file is taken aside as .edged-{id}",
    "disposal.copied": "its copy lies on the other file system, under a name of its own",
    "disposal.placed": "the copy has its name, the original is still there",
    "disposal.moved": "the file lies in the dated folder",
    "disposal.deleted": "the file is deleted",
    "disposal.returned": "another file, taken aside by mistake, is back under its name",
    "disposal.told": "the ledger knows what became of it",
    "vanished.told": "the ledger knows that a file is gone",
    "outbox.sent": "a message is with the broker's connection",
    "outbox.answered": "its PUBACK came",
    "outbox.delivered": "its delivery is committed",
    "outbox.parked": "it is put aside, and that is announced",
    "outbox.held": "its topic is held: nobody subscribes",
    "ledger.checkpoint": "the write-ahead log is about to be written back",
    "ledger.checkpointed": "the write-ahead log is written back",
    "ledger.migrating": "a migration has run, its COMMIT not begun",
    "ledger.migrated": "all migrations are committed",
    "rebuild.copied": "what reads of a damaged ledger is in the new file, its COMMIT not begun",
    "rebuild.made": "the new file is whole, the damaged one in its place",
    "rebuild.aside": "the damaged file is set aside, the new one not in its place",
    "rebuild.placed": "the new file is in its place",
    "retention.piece": "a piece of old rows is deleted, its COMMIT not begun",
    "retention.pruned": "that piece is committed",
    "rejudging.asked": "an image is to be judged again, by a row in the ledger; nobody was told",
    "daemon.ready": "every task runs",
    "daemon.draining": "SIGTERM came, the pipeline drains",
}
"""What has just happened at each point."""

_SPEC = re.compile(
    r"(?P<point>[a-z.]+)(\[(?P<detail>[^\]]*)\])?=(?P<action>kill|stop|abort|raise|eat|delay:(?P<seconds>\d+(\.\d+)?))(@(?P<hit>[1-9]\d*)(?P<on>\+)?)?\Z"
)

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "abort": signal.SIGABRT}

HINT: Final = "POINT=kill|stop|abort|raise|eat|delay:S[@HIT], points as in POINTS"


class Failpoint(Exception):  # noqa: N818 - it stands for an exception that nobody expects
    """Raised at an armed point: no error of the taxonomy, so nothing may handle it."""


@dataclass(slots=True)
class _Armed:
    detail: bytes | None
    action: str
    seconds: float
    first: int
    on: bool
    hits: int = 0


_armed: dict[str, list[_Armed]] = {}
_lock = threading.Lock()


def arm(text: str) -> tuple[str, ...]:
    """Arms what `text` says, in place of what was armed; returns the points. Raises ConfigError."""
    armed: dict[str, list[_Armed]] = {}
    for spec in filter(None, map(str.strip, text.split(","))):
        said = _SPEC.match(spec)
        if said is None or said["point"] not in POINTS:
            problem = f"{spec!r} is no failpoint" if said is None else f"there is no failpoint {said['point']}"
            raise ConfigError([ConfigProblem("environment", VARIABLE, problem, HINT)])
        detail = None if said["detail"] is None else os.fsencode(said["detail"])
        one = _Armed(detail, said["action"].partition(":")[0], float(said["seconds"] or 0), int(said["hit"] or 1), bool(said["on"]))
        armed.setdefault(said["point"], []).append(one)
    with _lock:
        _armed.clear()
        _armed.update(armed)
    return tuple(armed)


def reach(point: str, detail: bytes = b"") -> None:
    """The process is at `point`, with the image `detail`."""
    if _armed:
        _at(point, detail)


def _at(point: str, detail: bytes) -> None:
    for one in _armed.get(point, ()):
        if one.detail is not None and one.detail != detail:
            continue
        with _lock:
            one.hits += 1
            due = one.hits == one.first or (one.on and one.hits > one.first)
        if due:
            _act(one, point)


def _act(one: _Armed, point: str) -> None:
    if one.action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[one.action])
    elif one.action == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * (16 << 20)))
    elif one.action == "delay":
        time.sleep(one.seconds)
    else:
        raise Failpoint(f"failpoint {point}")
