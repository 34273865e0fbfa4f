"""How much room is left and how long it lasts, on a real file system of a few megabytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contract.ledger_pages import opened, page
from edged.intake import Quarantine
from edged.ledger.space import Room, Space
from edged.nouns import HealthStatus
from edged.shelf import Limits
from rigs.disk import Disk

MB = 1_000_000


@dataclass
class FactsBoard:
    status: HealthStatus | None = None
    cause: str = ""
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def report(self, name: str, status: HealthStatus, cause: str = "", hint: str = "", **facts: Any) -> None:
        self.status, self.cause, self.hint, self.facts = status, cause, hint, facts


class Hours:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def space_on(disk: Disk, min_free_bytes: int = MB) -> tuple[Space, FactsBoard, Hours]:
    board, clock = FactsBoard(), Hours()
    space = Space(disk.folder, min_free_bytes, board, monotonic=clock)
    space.look()
    return space, board, clock


def test_the_hours_left_follow_from_how_fast_the_free_space_shrinks_whoever_writes(make_disk: Callable[..., Disk], tmp_path: Path) -> None:
    """The quarantine's copies count like the ledger's own growth."""
    disk = make_disk(32, "tmpfs")
    space, board, clock = space_on(disk)
    assert board.status is HealthStatus.OK and board.facts["hours_left"] is None
    quarantine = Quarantine(disk.folder / "quarantine", Limits(), min_free_bytes=MB)
    image = tmp_path / "a.png"
    image.write_bytes(os.urandom(MB))
    for number in range(10):  # a megabyte a minute
        quarantine.keep(os.fsencode(image), f"id{number}", lambda: None)
        clock.now_s += 60
        space.look()
    assert space.free_bytes is not None
    expected = (space.free_bytes - MB) / MB / 60
    assert abs(board.facts["hours_left"] - expected) < 0.1 * expected + 0.06
    clock.now_s += 3600
    for _ in range(100):  # it grows no more: a quarter of an hour later nothing is foretold
        clock.now_s += 10
        space.look()
    assert board.facts["hours_left"] is None


def test_a_station_says_when_judging_will_stop_and_stops_then(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(32, "tmpfs")
    space, board, clock = space_on(disk, 8 * MB)
    disk.fill(leave_bytes=12 * MB)
    clock.now_s += 600
    space.look()
    assert (space.room, space.short, board.status) == (Room.TIGHT, False, HealthStatus.DEGRADED)
    assert "judging stops below 8 MB, at the present rate in" in board.cause
    disk.fill(leave_bytes=6 * MB)
    space.look()
    assert (space.room, space.short, board.status) == (Room.SHORT, True, HealthStatus.DOWN)
    assert board.hint
    assert space.wanted_bytes > 5 * MB
    disk.empty()
    space.look()
    assert (space.room, space.short, space.wanted_bytes) == (Room.OK, False, 0)


def test_a_copy_that_would_leave_too_little_free_is_not_made(make_disk: Callable[..., Disk], tmp_path: Path) -> None:
    disk = make_disk(16, "tmpfs")
    image = tmp_path / "a.png"
    image.write_bytes(bytes(2 * MB))
    quarantine = Quarantine(disk.folder / "quarantine", Limits(), min_free_bytes=8 * MB)
    assert quarantine.keep(os.fsencode(image), "first", lambda: None)
    disk.fill(leave_bytes=9 * MB)
    with pytest.raises(OSError, match="min_free_bytes"):
        quarantine.keep(os.fsencode(image), "second", lambda: None)
    assert [path.name for path in (disk.folder / "quarantine").iterdir()] == ["first.png"]


def test_a_ballast_given_up_comes_back_only_when_twice_its_size_is_free(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(32, "tmpfs")
    space, board, _ = space_on(disk, 0)
    ballast = disk.folder / "ballast"
    size = ballast.stat().st_size
    assert size == 2 * 1024**2
    disk.fill()
    space.refused(OSError(28, "No space left on device"))
    assert space.short and not ballast.exists()
    space.look()
    assert (space.room, board.status) == (Room.FULL, HealthStatus.DOWN) and not ballast.exists()
    disk.empty()
    disk.fill(leave_bytes=2 * size - 100_000)
    space.look()
    assert space.short and not ballast.exists()
    disk.empty()
    space.look()
    assert not space.short and ballast.stat().st_size == size


@pytest.mark.parametrize("when_full", ["block", "forget-delivered"])
async def test_only_when_asked_delivered_results_make_room_before_their_time_and_undelivered_never(
    when_full: str, make_disk: Callable[..., Disk]
) -> None:
    disk = make_disk(24, "tmpfs")
    board = FactsBoard()
    async with opened(disk.folder, board, min_free_bytes=MB // 2, when_full=when_full, tick_s=0.05) as ledger:  # type: ignore[arg-type]
        await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"%d" % n)]) for n in range(4000)))
        rows = await ledger.outbox.due("backlog", 5000, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows[100:]])
        await asyncio.sleep(0.5)  # what is in the log comes into the ledger
        for _ in range(3):  # the first time the ledger still gives back what its log took
            disk.fill(leave_bytes=MB // 4)
            await asyncio.sleep(0.6)
            if not (disk.folder / "ballast").exists():
                break  # who takes that room too leaves none to make room with
        if when_full == "forget-delivered":
            async with asyncio.timeout(20):
                while ledger._space.short:
                    await asyncio.sleep(0.05)
        left = len((await ledger.results(limit=5000))[0])
        assert left == 4000 if when_full == "block" else 100 < left < 4000, left
        assert ledger._space.short is (when_full == "block")
        assert len(await ledger.outbox.due("backlog", 5000, 0, 2**62)) == 100, "what is not delivered stays"
