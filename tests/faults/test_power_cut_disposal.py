"""The power goes while judged files are moved, deleted or copied to quarantine: no image that the ledger knows is lost, and the ledger says
where each is. Ledger, disposal, quarantine and disks are real."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened
from rigs.faults import Fault
from rigs.power import Disk, cut_under, disk, writers

FILES = 60


@dataclass
class Images:
    """What one cycle's folder held: name -> content; where a judged file may be, by its ledger."""

    folder: Path
    shelf: Path
    quarantine: Path
    contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def dropped(cls, folder: Path, shelf: Path, quarantine: Path, seed: int) -> Images:
        rng, made = random.Random(seed), cls(folder, shelf, quarantine)
        folder.mkdir(parents=True)
        for number in range(FILES):
            made.contents[f"{number}.png"] = rng.randbytes(rng.randrange(1, 60_000))
            (folder / f"{number}.png").write_bytes(made.contents[f"{number}.png"])
        return made

    def places(self) -> dict[str, list[Path]]:
        """sha256 -> every file under the folder, the shelf and the quarantine that has this content."""
        found: dict[str, list[Path]] = {}
        for root in {self.folder, self.shelf, self.quarantine}:
            for path in root.rglob("*"):
                if path.is_file():
                    found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(path)
        return {sha256: sorted(set(paths)) for sha256, paths in found.items()}


def known(state: Path) -> dict[str, tuple[str | None, str | None]]:
    """Name -> what the ledger says became of the file, and where it is."""
    connection = sqlite3.connect(state / "ledger.db")
    try:
        rows = connection.execute("SELECT path, disposal, moved_to FROM landing").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
    assert len({path for path, *_ in rows}) == len(rows)
    return {path.decode(): (disposal, moved_to) for path, disposal, moved_to in rows}


def compare(images: Images, state: Path, said: Sequence[str], after: str) -> int:
    """How many images are lost: neither at their place, nor aside, nor where the ledger says."""
    places, rows, lost = images.places(), known(state), 0
    told = {line.split()[1]: line.split()[2] for line in said if line.startswith("disposed ")}
    for name, content in images.contents.items():
        here = places.get(hashlib.sha256(content).hexdigest(), [])
        disposal, moved_to = rows.get(name, (None, None))
        if name in told:
            assert disposal == told[name], f"{name}: {told[name]} was acknowledged, the ledger says {disposal}"
        if disposal == "moved":
            lost += Path(str(moved_to)) not in here
            assert images.folder / name not in here
        elif disposal == "deleted":
            lost += int(name.removesuffix(".png")) % 3 == 0 and not any(path.parent == images.quarantine for path in here)
            assert not any(path.parent == images.folder for path in here)
        elif after == "delete":
            # Not told yet: deleted or not; a rejected one has its copy by then.
            lost += int(name.removesuffix(".png")) % 3 == 0 and not here
        else:
            lost += not here
    return lost


def ended(images: Images, state: Path, after: str) -> None:
    """Resumed to the end: every file is in exactly one place (a rejected one also in quarantine), and the ledger names it."""
    # A file that was deleted just before the cut is found gone by the resumed disposal.
    ends = {"moved"} if after == "move" else {"deleted", "gone"}
    assert {disposal for disposal, _ in known(state).values()} <= ends
    assert [path for path in images.folder.rglob("*") if path.is_file() and images.shelf not in path.parents] == []
    assert list(images.shelf.rglob(".*")) == []
    for name, content in images.contents.items():
        here = images.places()[hashlib.sha256(content).hexdigest()] if after == "move" or int(name.removesuffix(".png")) % 3 == 0 else []
        assert sum(path.parent != images.quarantine for path in here) == (after == "move")
        assert any(path.parent == images.quarantine for path in here) == (int(name.removesuffix(".png")) % 3 == 0)


CASES: Any = [
    ("same disk", "move", False),
    ("another disk", "move", True),
    ("delete", "delete", False),
]


@pytest.mark.parametrize(
    ("count", "kind"),
    [
        pytest.param(2, "ext4"),
        pytest.param(1, "xfs"),
        pytest.param(14, "ext4", marks=pytest.mark.long),
        pytest.param(14, "xfs", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(("what", "after", "across"), CASES)
@pytest.mark.fault("power cut under a disposal", matrix=(7,))
def test_no_judged_file_is_lost_by_a_power_cut(
    tmp_path: Path, fault: Fault, what: str, after: str, across: bool, kind: str, count: int
) -> None:
    rng, total, lost, slowest_s, unfinished = random.Random(7), 0, 0, 0.0, 0
    with ExitStack() as stack:
        disks: list[Disk] = [stack.enter_context(disk(tmp_path / "first", kind))]
        if across:
            disks.append(stack.enter_context(disk(tmp_path / "second", kind)))
        made = stack.enter_context(writers(tmp_path / "writers"))
        for cycle in range(count):
            state = disks[0].folder / "state"
            folder = disks[0].folder / "drop"
            shelf = disks[-1].folder / "done" if across else folder / ".done"
            images = Images.dropped(folder, shelf, state / "quarantine", cycle)
            options = {"folder": str(folder), "move_to": str(shelf) if across else None, "after": after}
            disks[0].sync()  # the tool's own writes are not the question
            writer = made.start("dispose", state, **options)
            writer.heard("disposed", 1 + int(rng.random() * FILES * 0.7))
            said = cut_under(writer, disks, rng.uniform(0, 0.01))
            unfinished += "done" not in said
            began = time.monotonic()
            asyncio.run(look(state))
            slowest_s = max(slowest_s, time.monotonic() - began)
            total, lost = total + FILES, lost + compare(images, state, said, after)
            said = made.start("dispose", state, **options).wait()
            assert "done" in said, made.errors()
            ended(images, state, after)
            for each in (state, folder, shelf):
                shutil.rmtree(each, ignore_errors=True)
    assert unfinished, "the power never went while files were on their way"
    fault.row(f"{what}, {kind}, {count} cuts", images=total, lost=lost, doubled=0, recovered_s=round(slowest_s, 2))


async def look(state: Path) -> None:
    async with opened(state):
        pass
