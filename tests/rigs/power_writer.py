"""The writers of the power cuts: the real ledger, and the real disposal, in a process that is killed with the file system under it.

Reads one JSON line for each writer, forks it, and says its pid, then `ended`. A writer acknowledges by a line in a file elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlite_utils  # noqa: F401 - a migration imports it: here once for all writers

from contract.ledger_pages import HeardBoard, opened, page
from edged.config import After, Camera
from edged.errors import Unavailable
from edged.intake.disposal import Disposal, Pending
from edged.intake.quarantine import Quarantine
from edged.ledger import Ledger, connection, retention, wal
from edged.ledger import answers as figures
from edged.nouns import VerdictKind
from edged.shelf import Limits

STREAMS = 8
Ack = Callable[[str], None]


async def record(state: Path, ack: Ack, *, first: int, synchronous: str = "FULL", checkpoint_pages: int = 0, prune: bool = False) -> None:
    """Records and delivers as fast as it can; `checkpoint_pages`: so often that a checkpoint is nearly always under way; `prune`: with
    retention and vacuum at their busiest."""
    connection.WRITER_PRAGMAS = tuple(
        each.replace("synchronous = FULL", f"synchronous = {synchronous}") for each in connection.WRITER_PRAGMAS
    )
    wal.CHECKPOINT_PAGES = checkpoint_pages or wal.CHECKPOINT_PAGES
    options: dict[str, Any] = {}
    if prune:
        figures.FIGURES_S, figures.FIGURES_SHARE = 0.02, 1
        retention.PERSIST_S, retention.FREE_PAGES, retention.VACUUM_PAGES = 0.0, 5, 3
        options = {"retain_rows": 20, "tick_s": 0.005}
    async with opened(state, **options) as ledger:
        ack("ready")
        await asyncio.gather(*(_stream(ledger, ack, first + k) for k in range(STREAMS)), _deliver(ledger, ack), ledger.run(asyncio.Event()))


async def _stream(ledger: Ledger, ack: Ack, number: int) -> None:
    while True:
        recorded = await ledger.record([page(b"%d.png" % number, b"content %d" % number)])
        ack(f"recorded {recorded.ids[0]}")
        number += STREAMS


async def persist(state: Path, ack: Ack, *, first: int) -> None:
    """Records whatever the disk says, and tells each refusal and each change of health."""
    board = HeardBoard()
    async with opened(state, board, tick_s=0.1) as ledger:
        ack("ready")
        number, health = first, ""
        while True:
            pause_s = 0.0
            try:
                recorded = await ledger.record([page(b"%d.png" % number, b"content %d" % number)])
                ack(f"recorded {recorded.ids[0]}")
                number += 1
            except Unavailable as error:
                ack(f"refused {error.cause}")
                pause_s = 0.02
            # Before the pause: the disk may be well again after it.
            if (now := str(board.status("ledger"))) != health:
                health = now
                ack(f"health {health}")
            await asyncio.sleep(pause_s)


async def _deliver(ledger: Ledger, ack: Ack) -> None:
    while True:
        rows = (await ledger.outbox.due("backlog", 40, 0, 2**62))[::2]
        for row in rows:
            ack(f"offered {row.id}")
        await ledger.outbox.delivered([row.row for row in rows])
        for row in rows:
            ack(f"delivered {row.id}")
        await asyncio.sleep(0.005)


async def reopen(state: Path, ack: Ack) -> None:
    """Opens the ledger: migrates or rebuilds it, as it is needed."""
    ack("ready")
    async with opened(state):
        ack("opened")


async def dispose(state: Path, ack: Ack, *, folder: str, move_to: str | None, after: str) -> None:
    """Judges each file of the folder, and disposes of it; one in three is rejected, and goes to quarantine before it goes."""
    camera = Camera(name="cam1", folder=Path(folder), recipe="r1", after=After(after), move_to=Path(move_to) if move_to else None)
    quarantine = Quarantine(state / "quarantine", Limits(bytes=10**9))
    disposal = Disposal(camera, lambda: datetime.now(UTC), lambda: None)
    async with opened(state) as ledger:
        ack("ready")
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and not path.name.startswith("."):
                await judge(ledger, path, ack)
        while rows := await ledger.pending_disposal("cam1"):
            for row in rows:
                pending = Pending(*row)
                if pending.verdict == VerdictKind.ERROR:
                    quarantine.keep(os.fsencode(camera.folder / os.fsdecode(pending.path)), pending.id, lambda: None)
                disposed = disposal.dispose(pending)
                await ledger.disposed("cam1", pending.path, pending.id, disposed.outcome, disposed.new_path)
                ack(f"disposed {os.fsdecode(pending.path)} {disposed.outcome} {disposed.new_path}")
    ack("done")


async def judge(ledger: Ledger, path: Path, ack: Ack) -> None:
    facts, content = path.stat(), path.read_bytes()
    bad = int(path.stem) % 3 == 0
    how: dict[str, Any] = {"verdict": VerdictKind.ERROR, "reason": "corrupt"} if bad else {}
    recorded = await ledger.record([page(os.fsencode(path.name), content, mtime_ns=facts.st_mtime_ns, **how)])
    ack(f"recorded {recorded.ids[0]}")


ROLES: dict[str, Callable[..., Awaitable[None]]] = {"record": record, "reopen": reopen, "dispose": dispose, "persist": persist}


def _work(wanted: dict[str, Any]) -> None:
    acks = os.open(wanted["acks"], os.O_WRONLY | os.O_APPEND)

    def ack(line: str) -> None:
        os.write(acks, line.encode() + b"\n")

    asyncio.run(ROLES[wanted["role"]](Path(wanted["state"]), ack, **wanted["options"]))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # its logs are no answers
            try:
                _work(json.loads(line))
            except BaseException:  # noqa: BLE001 - a fork must never return into the loop of its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
