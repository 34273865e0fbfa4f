"""Cameras that may not judge yet: paused, new to a known folder, beside another instance, on a bare mount point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.intake_station import Memory, Station, camera, drop, picture
from edged.nouns import HealthStatus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


async def test_a_paused_camera_lists_and_sends_nothing_until_it_is_resumed_also_after_a_restart(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    cameras, memory = [camera(folder), camera(other, name="cam2")], Memory()
    async with Station(tmp_path, cameras, memory=memory).running() as station:
        await station.intake.pause("cam", "shift-2")
        drop(folder, "a.png", picture(1))
        drop(other, "b.png", picture(2))
        assert (await station.landing()).camera == "cam2"
        await station.nothing(0.5)
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, "paused by shift-2 since 20" in cause, "resume cam" in hint) == (HealthStatus.DEGRADED, True, True)
        assert station.intake.snapshot()[0].waiting == 1
        await station.intake.pause("cam", "somebody else")
        assert "shift-2" in station.intake.paused("cam")
    async with Station(tmp_path, cameras, memory=memory).running() as station:
        assert (await station.landing()).camera == "cam2"
        await station.nothing(0.5)
        assert "paused by shift-2" in station.health.items["folder:cam"][1]
        await station.intake.resume("cam")
        assert (await station.landing()).path == b"a.png"
        assert station.health.items["folder:cam"][0] is HealthStatus.OK
        with pytest.raises(LookupError):
            await station.intake.pause("cam3", "x")


async def test_what_was_sent_before_the_pause_is_judged_and_what_is_put_back_waits(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        drop(folder, "a.png", picture(1))
        drop(folder, "b.png", picture(2))
        first, second = await station.landing(), await station.landing()
        await station.intake.pause("cam", "x")
        await station.judge(first)
        station.intake.put_back(second)
        await station.nothing(0.5)
        await station.intake.resume("cam")
        assert (await station.landing()).path == second.path


async def test_a_camera_that_is_new_to_a_known_folder_holds_and_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    memory = Memory()
    memory.known_as["cam"] = "old"
    drop(folder, "a.png", picture(1))
    config = camera(folder, existing="baseline")
    async with Station(tmp_path, [config], memory=memory).running() as station:
        await station.nothing(0.5)
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, "recorded as those of camera old" in cause) == (HealthStatus.DOWN, True)
        assert "edged cameras rename old cam" in hint
        assert "edged cameras resume cam" in hint
        assert (memory.baselined, memory.started) == ([], set())
        await station.intake.resume("cam")
        await station.until(lambda: memory.baselined == [b"a.png"])  # now is its first start
        drop(folder, "b.png", picture(2))
        assert (await station.landing()).path == b"b.png"


async def test_a_folder_whose_share_was_mounted_at_the_last_start_is_not_taken_from_the_bare_mount_point(
    folder: Path, tmp_path: Path
) -> None:
    memory = Memory()
    memory.mounts["cam"] = str(folder)
    drop(folder, "bare.png", picture(1))
    async with Station(tmp_path, [camera(folder)], memory=memory).running() as station:
        await station.nothing(0.5)
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, cause) == (HealthStatus.DOWN, f"nothing is mounted at {folder}, where the share of {folder} was")
        assert "Mount it" in hint
        await station.intake.resume("cam")
        assert (await station.landing()).path == b"bare.png"
    assert memory.mounts["cam"] != str(folder)


_CLAIMS = """
import os, sys, time
from edged.intake.claim import Claim
facts = os.stat(sys.argv[1])
claim = Claim("folder:x", sys.argv[1])
claim.take((facts.st_dev, facts.st_ino))
print("taken", flush=True)
time.sleep(60)
"""


@contextmanager
def _another_instance(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", _CLAIMS, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "taken\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


async def test_a_second_instance_on_the_same_folder_is_refused_until_the_first_has_ended(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    drop(folder, "a.png", picture(1))
    with _another_instance(folder) as first:
        async with Station(tmp_path, [camera(link)]).running() as station:
            await station.nothing(0.5)
            status, cause, hint = station.health.items["folder:cam"]
            assert (status, cause) == (HealthStatus.DOWN, f"another edged (process {first.pid}) watches {link}")
            assert "a folder of its own" in hint
            first.kill()  # however it ends
            assert (await station.landing()).path == b"a.png"


async def test_two_cameras_of_one_instance_may_share_a_folder(folder: Path, tmp_path: Path) -> None:
    cameras = [camera(folder, include=("*.png",)), camera(folder, name="cam2", include=("*.jpg",))]
    async with Station(tmp_path, cameras).running() as station:
        drop(folder, "a.png", picture(1))
        drop(folder, "a.jpg", picture(1, extension=".jpg"))
        assert {(await station.landing()).camera, (await station.landing()).camera} == {"cam", "cam2"}
