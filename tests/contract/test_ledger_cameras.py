"""What the ledger knows of cameras: folders, pauses, and a past that moves to a new name."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page
from edged.errors import Unavailable
from edged.ledger import rename_camera
from edged.nouns import Recording, Standing

SEEN = (b"a.png", 6, 1_000)


async def test_a_folder_is_known_under_the_name_of_the_camera_that_recorded_files_from_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        cameras = ledger.cameras
        assert await cameras.standing("cam1", {"cam1": "/drop"}) == Standing()
        await cameras.let_in("cam1", "/drop", "/")
        assert await cameras.standing("cam1", {"cam1": "/drop"}) == Standing(None, "/")
        assert (await cameras.standing("left", {"left": "/drop"})).known_as is None  # nothing was recorded: nothing to lose
        await ledger.record([page()])
        assert (await cameras.standing("left", {"left": "/drop"})).known_as == "cam1"
        assert (await cameras.standing("left", {"left": "/elsewhere"})).known_as is None
        both = {"left": "/drop", "cam1": "/drop"}
        assert (await cameras.standing("left", both)).known_as is None  # cam1 still watches it, with other globs
        assert (await cameras.standing("left", {**both, "cam1": "/new"})).known_as == "cam1"
        await cameras.let_in("left", "/drop", "/")
        assert (await cameras.standing("left", {"left": "/drop"})).known_as is None


async def test_a_pause_outlives_a_restart_and_keeps_the_name_of_who_paused_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.cameras.pause("cam1", "shift-2")
        assert await ledger.cameras.pause("cam1", "somebody") == first
    async with opened(tmp_path) as ledger:
        assert (await ledger.cameras.standing("cam1", {"cam1": "/drop"})).pause == first
        await ledger.cameras.resume("cam1")
        assert (await ledger.cameras.standing("cam1", {"cam1": "/drop"})).pause is None


async def test_a_renamed_camera_keeps_its_past_and_judges_nothing_again(tmp_path: Path) -> None:
    far = 2**63 + 5  # a time SQLite cannot hold as a number
    async with opened(tmp_path) as ledger:
        await ledger.first_start("cam1", "/drop")
        await ledger.cameras.let_in("cam1", "/drop", "/")
        await ledger.cameras.pause("cam1", "x")
        first = await ledger.record([page()])
        await ledger.record([page(b"b.png", b"other", mtime_ns=far)])
        await ledger.record([page(b"c.png", b"third", camera="cam2")])
    assert rename_camera(tmp_path, "cam1", "left") == 2
    async with opened(tmp_path) as ledger:
        standing = await ledger.cameras.standing("left", {"left": "/drop"})
        assert (standing.known_as, standing.mount, standing.pause is not None) == (None, "/", True)
        assert await ledger.known("left", [SEEN, (b"b.png", 5, far), (b"c.png", 5, 1_000)]) == {0, 1}
        assert await ledger.known("cam1", [SEEN]) == set()
        assert await ledger.first_start("left", "/drop") is False
        again = await ledger.record([page(camera="left")])
        assert (again.outcome, again.ids) == (Recording.KNOWN, first.ids)
        assert [row[0] for row in await ledger.pending_disposal("left")] == [b"a.png", b"b.png"]
        assert {entry.get("camera") for entry in await ledger.trace("a.png")} >= {"left"}
        copy = await ledger.record([page(b"copy.png", camera="cam2")])
        body = await ledger.result(copy.ids[0])
        assert body is not None
        assert body["data"]["duplicate_of"] == first.ids[0]  # the id it got under its old name


async def test_a_rename_is_refused_where_it_would_lose_or_mix(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is none"):
        rename_camera(tmp_path / "nowhere", "cam1", "left")
    async with opened(tmp_path) as ledger:
        await ledger.record([page()])
        await ledger.record([page(camera="left")])
        with pytest.raises(Unavailable, match="another edged .* uses it"):
            rename_camera(tmp_path, "cam1", "right")
    with pytest.raises(LookupError):
        rename_camera(tmp_path, "cam9", "right")
    with pytest.raises(ValueError, match="left"):
        rename_camera(tmp_path, "cam1", "left")
    assert rename_camera(tmp_path, "cam1", "right") == 1


async def test_a_ledger_from_before_knows_its_cameras_folders(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.first_start("cam1", "/drop")
        await ledger.record([page()])
    with sqlite3.connect(tmp_path / "ledger.db") as old:
        old.execute("DROP TABLE watched")
        old.execute("DROP TABLE pause")
        old.execute("ALTER TABLE landing DROP COLUMN born")
        old.execute("DELETE FROM _sqlite_migrations WHERE name = 'camera_folders'")
    old.close()
    async with opened(tmp_path) as ledger:
        assert (await ledger.cameras.standing("left", {"left": "/drop"})).known_as == "cam1"


async def test_a_file_under_the_old_name_of_a_renamed_camera_has_the_verdict_that_has_its_id_already(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        first = await ledger.record([page()])
    assert rename_camera(tmp_path, "cam1", "left") == 1
    async with opened(tmp_path) as ledger:
        again = await ledger.record([page()])
        assert (again.outcome, again.ids) == (Recording.KNOWN, first.ids)
        assert (await ledger.record([page()])).ids == first.ids
        assert len((await ledger.results())[0]) == 1
