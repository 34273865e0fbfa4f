"""The disk says that it could not sync, or not write. Then nothing is acknowledged that may not be there, and no restart is needed:

the failed group was told to nobody, its connection is not used again, and before anything new is recorded the log is written back into the
file and cut to nothing, with syncs of its own. While that fails too, the ledger stays refused, and health says so; it ends by itself when
the disk is well again. (An exit would only lose the state of health, and systemd's next start would fail at the same place.)
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened
from edged.ledger import inspect
from rigs.faults import Fault
from rigs.power import Disk, cut_under, disk, writers

FAILS = {
    "sync fails once": ("fdatasync", ":error=EIO:when=25", False),
    "sync fails from then on": ("fdatasync", ":error=EIO:when=25+", True),
    "log full for a while": ("pwrite64", ":error=ENOSPC:when=300..304", False),
    "log fails once": ("pwrite64", ":error=EIO:when=300", False),
    "log fails from then on": ("pwrite64", ":error=EIO:when=300+", True),
}


def injected(call: str, how: str, state: Path) -> list[str]:
    # Of the log alone: a mark beside the ledger is synced too, and nothing is promised of that.
    only = ["-P", str(state / "ledger.db-wal")]
    return ["strace", "-f", "-qq", "-o", "/dev/null", *only, "-e", f"trace={call}", "-e", f"inject={call}{how}"]


LONG = ("log fails once", "log fails from then on")


def case(what: str) -> Any:
    return pytest.param(what, marks=[pytest.mark.fault(f"ledger: {what}", matrix=(8,)), *([pytest.mark.long] if what in LONG else [])])


@pytest.mark.parametrize("what", [case(name) for name in FAILS])
def test_a_disk_that_fails_is_never_taken_for_one_that_works(tmp_path: Path, fault: Fault, what: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    call, how, for_good = FAILS[what]
    with disk(tmp_path, "ext4") as its, writers(tmp_path / "writers", injected(call, how, its.folder / "state")) as made:
        writer = made.start("persist", its.folder / "state", first=0)
        writer.heard("refused", 1)
        if for_good:
            writer.heard("refused", 10)
        else:
            began = len([line for line in writer.said() if line.startswith("recorded")])
            writer.heard("recorded", began + 50)
        # Then the power goes: what was said after the failure must be there too.
        said = cut_under(writer, [its], 0.2)
        lost, images, doubled, started_s = asyncio.run(compare(its, said))
    at = next(index for index, line in enumerate(said) if line.startswith("refused"))
    after = [line for line in said[at:] if line.startswith("recorded")]
    # The refusal is told in the loop, health by the writer's thread: either may come first.
    told = said[max(0, at - 5) : at + 60]
    assert "health HealthStatus.DOWN" in told or "health down" in told, told
    assert bool(after) is not for_good, "acknowledged on a disk that fails" if for_good else "it has not recovered by itself"
    if not for_good:
        assert said.index(after[0]) - at < 60
    cause = said[at].partition(" ")[2]
    fault.row(
        f"strace {call}{how}, then a power cut", images=images, lost=lost, doubled=doubled, recovered_s=round(started_s, 2), note=cause[:40]
    )


async def compare(its: Disk, said: Sequence[str]) -> tuple[int, int, int, float]:
    state = its.folder / "state"
    recorded = {line.split()[1] for line in said if line.startswith("recorded ")}
    began = time.monotonic()
    async with opened(state):
        took_s = time.monotonic() - began
    assert not (state / "set-aside").exists()
    assert inspect(state).problems == ()
    connection = sqlite3.connect(state / "ledger.db")
    ids = [id_ for (id_,) in connection.execute("SELECT id FROM message ORDER BY sequence")]
    connection.close()
    return len(recorded - set(ids)), len(recorded), len(ids) - len(set(ids)), took_s
