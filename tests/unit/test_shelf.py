"""Files kept below an age, a number and a size: the oldest go, nothing else does, and no step of the clock makes a file old."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edged.shelf import AWAY_CAP_S, DAY_S, Cautious, DatedShelf, Limits, Shelf

NOW = 1_800_000_000.0


class Clocks:
    """A wall clock that can be set, and one that counts."""

    def __init__(self, wall: float = NOW) -> None:
        self.wall_s, self.boot_s = wall, 100.0

    def wall(self) -> float:
        return self.wall_s

    def boot(self) -> float:
        return self.boot_s

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.boot_s += seconds


def filled(folder: Path, count: int, size: int = 100) -> list[Path]:
    """Files whose times of change differ, oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"{number}.png"
        file.write_bytes(bytes(size))
        files.append(file)
        time.sleep(0.005)
    return files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    filled(tmp_path / "2001-01-01", 3)
    assert Shelf(tmp_path / "2001-01-01", Limits()).make_room(10**12, 10**6) == 0
    assert DatedShelf(tmp_path, Limits()).prune() == (0, False)
    assert len(names(tmp_path)) == 3


def test_the_oldest_make_room_by_number_and_by_size(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    assert Shelf(tmp_path, Limits(files=3)).make_room() == 2
    assert names(tmp_path) == ["2.png", "3.png", "4.png"]
    assert Shelf(tmp_path, Limits(bytes=350)).make_room(150, 1) == 1
    assert names(tmp_path) == ["3.png", "4.png"]


def test_work_in_progress_links_and_folders_are_left_alone(tmp_path: Path) -> None:
    filled(tmp_path / "shelf", 1)
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "shelf" / "link.png").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shelf" / ".part").write_text("half")
    (tmp_path / "shelf" / "folder").mkdir()
    assert Shelf(tmp_path / "shelf", Limits(bytes=0)).make_room() == 1
    assert (tmp_path / "elsewhere").exists() and entries(tmp_path / "shelf") == [".part", "folder", "link.png"]


def test_a_file_goes_when_it_is_too_old(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    clocks = Clocks(time.time())
    shelf = Shelf(tmp_path, Limits(days=1), wall=clocks.wall, since_boot=clocks.boot)
    assert shelf.make_room() == 0
    clocks.pass_(DAY_S - 60)
    assert shelf.make_room() == 0
    clocks.pass_(120)
    assert shelf.make_room() == 2


def test_a_clock_that_jumps_ages_makes_nothing_old() -> None:
    clocks = Clocks()
    cautious = Cautious(NOW - 60, clocks.wall, clocks.boot)
    clocks.wall_s += 50 * 365 * DAY_S
    assert cautious.now() == NOW
    clocks.pass_(3600)
    assert cautious.now() - NOW == pytest.approx(DAY_S), "it follows a day an hour"
    clocks.wall_s = NOW - DAY_S
    assert cautious.now() == NOW - DAY_S, "and backward at once"
    assert Cautious(NOW, lambda: NOW + 50 * 365 * DAY_S, clocks.boot).now() == NOW + AWAY_CAP_S, "a start with a wrong clock"
    assert Cautious(None, clocks.wall, clocks.boot).now() == clocks.wall_s


def test_days_that_are_over_for_long_enough_go_with_their_folders(tmp_path: Path) -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    for day in ("2026-12-01", "2027-01-10", today):
        filled(tmp_path / day / "lot", 2)
    (tmp_path / "2026-13-99").mkdir()
    filled(tmp_path / "kept by people", 1)
    clocks = Clocks()
    shelf = DatedShelf(tmp_path, Limits(days=10), wall=clocks.wall, since_boot=clocks.boot)
    assert shelf.prune() == (2, False)
    assert entries(tmp_path) == ["2026-13-99", "2027-01-10", today, "kept by people"]
    clocks.pass_(30 * DAY_S)
    assert shelf.prune() == (4, False)
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize("limits", [Limits(files=3), Limits(bytes=300)])
def test_the_oldest_days_make_room_file_by_file(tmp_path: Path, limits: Limits) -> None:
    filled(tmp_path / "2027-01-10", 3)
    filled(tmp_path / "2027-01-11", 2)
    shelf = DatedShelf(tmp_path, limits, wall=lambda: NOW)
    assert shelf.prune() == (2, False)
    assert names(tmp_path / "2027-01-10") == ["2.png"] and len(names(tmp_path)) == 3
    assert shelf.prune() == (0, False)
    filled(tmp_path / "2027-01-12" / "deeper", 1)
    assert shelf.prune() == (1, False)
    assert not (tmp_path / "2027-01-10").exists()


def test_a_large_shelf_is_pruned_in_pieces(tmp_path: Path) -> None:
    filled(tmp_path / "2027-01-10", 4)
    shelf = DatedShelf(tmp_path, Limits(files=1))
    assert shelf.prune(budget_s=-1) == (0, True)
    assert shelf.prune() == (3, False)
