"""Where the bytes of a judged file are now: real files, wherever edged or a crash may have left them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.intake_station import Station, camera
from edged.errors import Unavailable
from edged.intake import Sought

CONTENT = b"pixels of the judged image"
ID = "46f2071e-9ba6-8f1c-af86-9cf6fc3c364d"


def sought(path: bytes = b"a.png", moved_to: str | None = None) -> Sought:
    return Sought(len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), ((path, moved_to),), (ID,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


def shelf(folder: Path) -> Path:
    place = folder / ".done" / "2026-11-24"
    place.mkdir(parents=True)
    return place


PLACES: dict[str, Callable[[Path], Path]] = {
    "under its name": lambda folder: folder / "a.png",
    "taken aside by a disposal under way": lambda folder: folder / f".edged-{ID}",
    "where it was moved to": lambda folder: shelf(folder) / "a.png",
    "where it was moved to, beside another of its name": lambda folder: shelf(folder) / f"a~{ID[:8]}.png",
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_judged_file_is_found(place: str, folder: Path, tmp_path: Path) -> None:
    file = PLACES[place](folder)
    file.write_bytes(CONTENT)
    station = Station(tmp_path, [camera(folder, after="move")])
    moved_to = str(folder / ".done/2026-11-24/a.png") if ".done" in str(file) else None
    found = await station.intake.find("cam", sought(moved_to=moved_to))
    assert found is not None
    assert (Path(found.folder), found.path, found.kept) == (file.parent, os.fsencode(file.name), False)
    assert (found.inode, found.mtime_ns) == (file.stat().st_ino, file.stat().st_mtime_ns)


async def test_a_name_that_is_no_text_is_found_where_it_was_moved_to(folder: Path, tmp_path: Path) -> None:
    name = b"a\xff.png"
    place = os.fsencode(shelf(folder)) + b"/" + name
    Path(os.fsdecode(place)).write_bytes(CONTENT)
    shown = place.decode("utf-8", "backslashreplace")
    station = Station(tmp_path, [camera(folder, after="move")])
    found = await station.intake.find("cam", sought(name, shown))
    assert found is not None
    assert found.path == name


async def test_the_copy_in_quarantine_is_taken_first_and_alone_where_nothing_else_is_wanted(folder: Path, tmp_path: Path) -> None:
    station = Station(tmp_path, [camera(folder)])
    (folder / "a.png").write_bytes(CONTENT)
    assert await station.intake.find("cam", sought(), kept_only=True) is None
    station.quarantine.mkdir()
    (station.quarantine / f"{ID}.png").write_bytes(CONTENT)
    found = await station.intake.find("cam", sought())
    assert found is not None
    assert (Path(found.folder), found.kept) == (station.quarantine, True)


async def test_other_content_of_the_same_size_a_link_and_a_fifo_are_not_the_judged_file(folder: Path, tmp_path: Path) -> None:
    station = Station(tmp_path, [camera(folder)])
    assert await station.intake.find("cam", sought()) is None
    (folder / "a.png").write_bytes(CONTENT[::-1])
    assert await station.intake.find("cam", sought()) is None
    (folder / "a.png").unlink()
    (tmp_path / "elsewhere.png").write_bytes(CONTENT)
    (folder / "a.png").symlink_to(tmp_path / "elsewhere.png")
    assert await station.intake.find("cam", sought()) is None
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    assert await station.intake.find("cam", sought()) is None


async def test_a_quarantine_that_cannot_be_read_is_away_and_not_empty(folder: Path, tmp_path: Path) -> None:
    station = Station(tmp_path, [camera(folder)])
    station.quarantine.mkdir()
    (station.quarantine / f"{ID}.png").mkdir()  # no file: nothing to find
    assert await station.intake.find("cam", sought(), kept_only=True) is None
    (station.quarantine / f"{ID}.png").rmdir()
    station.quarantine.rmdir()
    assert await station.intake.quarantined() == {}
    station.quarantine.symlink_to(station.quarantine.name)  # a loop: it can be neither read nor told to be empty
    with pytest.raises(Unavailable, match="the quarantine"):
        await station.intake.quarantined()


async def test_a_folder_that_is_away_is_not_said_to_have_lost_the_file(folder: Path, tmp_path: Path) -> None:
    station = Station(tmp_path, [camera(folder)])
    folder.rename(tmp_path / "unmounted")
    with pytest.raises(Unavailable):
        await station.intake.find("cam", sought())
