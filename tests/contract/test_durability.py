"""Every change of a name is durable before the ledger, or anybody, is told of it: as strace sees it, whatever the file system forgives."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page
from rigs.ledger_files import overwrite, pages_with
from rigs.power import writers
from rigs.syncs import STRACE, undone

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def lines(trace: Path) -> list[str]:
    """Without what SQLite does to a journal of its own."""
    return [line for line in trace.read_text(errors="replace").splitlines() if "-journal" not in line]


@needs_strace
@pytest.mark.parametrize("across", [False, True], ids=["same disk", "another disk"])
@pytest.mark.parametrize("after", ["move", "delete"])
def test_what_became_of_a_file_is_durable_before_it_is_told(tmp_path: Path, after: str, across: bool) -> None:
    folder, trace = tmp_path / "drop", tmp_path / "trace"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"%d" % number * 50)
    move_to = Path("/dev/shm") / f"edged-{tmp_path.name}" if across else None
    try:
        with writers(tmp_path, [*STRACE, "-o", str(trace)]) as made:
            options = {"folder": str(folder), "move_to": str(move_to) if move_to else None, "after": after}
            said = made.start("dispose", tmp_path / "state", **options).wait()
    finally:
        if move_to is not None:
            shutil.rmtree(move_to, ignore_errors=True)
    assert sum(line.startswith("disposed") for line in said) == 6
    below = [str(folder), str(tmp_path / "state" / "quarantine"), *([str(move_to)] if move_to else [])]
    assert sum("rename" in line and ".edged-" in line for line in lines(trace)) >= 6
    assert undone(lines(trace), below, "disposed") == []


@needs_strace
def test_a_rebuild_is_durable_step_by_step(tmp_path: Path) -> None:
    state, trace = tmp_path / "state", tmp_path / "trace"

    async def filled() -> None:
        async with opened(state) as ledger:
            await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"%d" % n)]) for n in range(100)))

    asyncio.run(filled())
    overwrite(state / "ledger.db", pages_with(state / "ledger.db", b"specversion")[3:5], 1)
    with writers(tmp_path, [*STRACE, "-o", str(trace)]) as made:
        assert "opened" in made.start("reopen", state).wait()
    renames = [line for line in lines(trace) if "rename" in line and str(state) in line]
    assert len(renames) >= 3
    assert (
        undone(lines(trace), [f"{state}/ledger.db", f"{state}/ledger.rebuil", f"{state}/set-aside", f"{state}/ledger.suspect"], "opened")
        == []
    )
