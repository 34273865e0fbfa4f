"""A process that does what the daemon does to its ledger, as fast as it can: records, delivers, prunes. It is there to be killed.

python -m rigs.ledger_work FOLDER FIRST     names images from FIRST on; a line `number id` once a record is committed
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.ledger_pages import opened, page
from edged import failpoints
from edged.ledger import Ledger
from edged.nouns import Recording

ROOT = Path(__file__).parents[2]
STREAMS = 4


@dataclass(frozen=True, slots=True)
class Work:
    """`said`: number -> id of what the process said is recorded; `status`: its exit status."""

    said: dict[int, str]
    status: int
    errors: str


def work(folder: Path, first: int, *, points: str = "", prefix: Sequence[str] = (), deliver: bool = True, timeout_s: float = 120) -> Work:
    """Runs it until it dies of `points` or `prefix`; after `timeout_s` it is killed, with status 0."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", failpoints.VARIABLE: points}
    command = [*prefix, sys.executable, "-m", "rigs.ledger_work", str(folder), str(first), "yes" if deliver else "no"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, start_new_session=True)
    try:
        said, errors = process.communicate(timeout=timeout_s)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        (said, errors), status = process.communicate(), 0
    whole = said[: said.rfind("\n") + 1].splitlines()
    return Work({int(number): id_ for number, id_ in (line.split() for line in whole)}, status, errors[-2000:])


def image(number: int) -> tuple[bytes, bytes]:
    return b"%d.png" % number, b"content %d" % number


async def lost_or_doubled(folder: Path, said: dict[int, str]) -> tuple[int, int]:
    """Of what was said: how much the ledger does not know under this very id, and how many ids it has twice."""
    lost = 0
    async with opened(folder) as ledger:
        for number, id_ in said.items():
            again = await ledger.record([page(*image(number))])
            lost += (again.outcome, again.ids) != (Recording.KNOWN, (id_,))
        rows = await ledger.outbox.due("backlog", 1_000_000, 0, 2**62)
    return lost, len(rows) - len({row.id for row in rows})


async def _stream(ledger: Ledger, number: int) -> None:
    while True:
        recorded = await ledger.record([page(*image(number))])
        sys.stdout.write(f"{number} {recorded.ids[0]}\n")
        sys.stdout.flush()
        number += STREAMS


async def _deliver(ledger: Ledger) -> None:
    while True:
        rows = await ledger.outbox.due("backlog", 50, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows])
        await asyncio.sleep(0.01)


async def _main(folder: Path, first: int, deliver: bool) -> None:
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))
    async with opened(folder, retain_rows=60, tick_s=0.05) as ledger, asyncio.TaskGroup() as group:
        group.create_task(ledger.run(asyncio.Event()))
        if deliver:
            group.create_task(_deliver(ledger))
        for turn in range(STREAMS):
            group.create_task(_stream(ledger, first + turn))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "yes"))
