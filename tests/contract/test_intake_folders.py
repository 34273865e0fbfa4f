"""Folders as they are: missing, unmounted, hanging, come back. Real mounts and a real FUSE file system where the machine has them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from contract.intake_station import Station, camera, drop, picture
from edged.mounts import Mount, absent_mount, is_network, mode_for, mount_of
from edged.nouns import HealthStatus, Recorded, Recording, VerdictKind

MOUNTINFO = r"""22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /mnt/tool rw - cifs //tool/images rw
41 40 0:41 / /mnt/tool/inner rw - ext4 /dev/vdb rw
42 27 0:42 / /mnt/with\040space rw - fuse.sshfs host:/x rw
43 27 0:43 / /mnt/disk rw - fuseblk /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "network", "mode"),
    [
        ("/data/drop", "ext4", False, "inotify"),
        ("/mnt/tool/a/b", "cifs", True, "poll"),
        ("/mnt/toolbox", "ext4", False, "inotify"),
        ("/mnt/tool/inner/x", "ext4", False, "inotify"),
        ("/mnt/with space/x", "fuse.sshfs", True, "poll"),
        ("/mnt/disk/x", "fuseblk", False, "inotify"),
    ],
)
def test_the_mount_under_a_path_decides_between_inotify_and_polling(path: str, kind: str, network: bool, mode: str) -> None:
    mount = mount_of(path, MOUNTINFO)
    assert (mount.kind, mount.network) == (kind, network)
    assert mode_for(mount, camera(Path(path)).mode) == mode
    assert mode_for(mount, camera(Path(path), mode="poll").mode) == "poll"


def test_a_state_directory_on_this_machine_is_on_no_network(tmp_path: Path) -> None:
    assert is_network(tmp_path / "not" / "there" / "yet") is None


def test_a_mount_that_fstab_promises_and_that_is_absent_is_noticed() -> None:
    fstab = "# comment\n//tool/images /mnt/tool cifs ro 0 0\n/dev/vda / ext4 defaults 0 1\n"
    assert absent_mount("/mnt/tool/cam1", Mount("/", "ext4", "/dev/vda"), fstab) == "/mnt/tool"
    assert absent_mount("/mnt/tool/cam1", Mount("/mnt/tool", "cifs", "//tool/images"), fstab) is None
    assert absent_mount("/data", Mount("/", "ext4", "/dev/vda"), fstab) is None


async def test_a_missing_folder_is_named_and_picked_up_when_it_comes(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    other = tmp_path / "there"
    other.mkdir()
    async with Station(tmp_path, [camera(folder), camera(other, name="cam2")]).running() as station:
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, "No such file" in cause, "Create the folder" in hint) == (HealthStatus.DOWN, True, True)
        drop(other, "b.png", picture(2))
        assert (await station.landing()).camera == "cam2"
        folder.mkdir()
        drop(folder, "a.png", picture())
        assert (await station.landing()).camera == "cam"
        await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.OK)


@pytest.mark.parametrize("mode", ["inotify", "poll"])
async def test_a_folder_that_is_deleted_and_made_again_goes_on(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        drop(folder, "a.png", picture(1))
        await station.judge(await station.landing())
        shutil.rmtree(folder)
        await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.DOWN)
        folder.mkdir()
        drop(folder, "b.png", picture(2))
        await station.judge(await station.landing())
        drop(folder, "c.png", picture(3))
        assert (await station.landing()).path == b"c.png"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything; see the test that drops to nobody")
async def test_an_unreadable_file_waits_and_is_named(tmp_path: Path) -> None:
    await _unreadable_file_waits(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
async def test_an_unreadable_file_waits_and_is_named_for_nobody() -> None:
    with tempfile.TemporaryDirectory(prefix="edged-nobody-") as home:  # pytest's own folders are locked for all but root
        os.chown(home, 65534, -1)
        os.seteuid(65534)
        try:
            await _unreadable_file_waits(Path(home))
        finally:
            os.seteuid(0)


async def _unreadable_file_waits(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    async with Station(tmp_path, [camera(folder)]).running() as station:
        secret = drop(folder, "secret.png", picture())
        secret.chmod(0)
        drop(folder, "open.png", picture(2))
        assert (await station.landing()).path == b"open.png"
        await station.until(lambda: "secret.png" in station.health.items["folder:cam"][1])
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, "Permission denied" in cause, "permission" in hint) == (HealthStatus.DEGRADED, True, True)
        secret.chmod(0o644)
        assert (await station.landing()).path == b"secret.png"
        await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.OK)
        folder.chmod(0)
        await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.DOWN)
        folder.chmod(0o755)
        drop(folder, "back.png", picture(3))
        assert (await station.landing()).path == b"back.png"


def _run(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _can_mount(tmp_path: Path) -> bool:
    place = tmp_path / "probe"
    place.mkdir()
    return _run("mount", "-t", "tmpfs", "none", place) and _run("umount", place)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_an_unmounted_share_is_no_empty_folder_and_nothing_is_taken_from_the_bare_directory(tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("no mounts here")
    image, mount = tmp_path / "disk.img", tmp_path / "share"
    mount.mkdir()
    _run("truncate", "-s", "8M", image)
    _run("mkfs.ext4", "-q", image)
    if not _run("mount", "-o", "loop", image, mount):
        pytest.skip("no loop devices here")
    try:
        folder = mount / "drop"
        folder.mkdir()
        async with Station(tmp_path, [camera(mount, recursive=True)]).running() as station:
            drop(folder, "a.png", picture(1))
            await station.judge(await station.landing())
            assert _run("umount", mount)
            began = time.monotonic()
            await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.DOWN)
            assert time.monotonic() - began < 2.5
            assert "no longer mounted" in station.health.items["folder:cam"][1]
            (mount / "bare.png").write_bytes(picture(9))
            await station.nothing(0.6)
            assert station.memory.vanishings == []
            (mount / "bare.png").unlink()
            assert _run("mount", "-o", "loop", image, mount)
            drop(folder, "b.png", picture(2))
            landing = await station.landing()
            assert landing.path == b"drop/b.png"
            await station.judge(landing)
            await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.OK)
            drop(folder, "c.png", picture(3))
            assert (await station.landing()).path == b"drop/c.png"
            assert station.memory.vanishings == []
    finally:
        _run("umount", mount)


@contextlib.contextmanager
def _bindfs(source: Path, mount: Path) -> Iterator[int]:
    """A FUSE file system over a folder; yields the process that serves it."""
    process = subprocess.Popen(["bindfs", "-f", source, mount], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if os.path.ismount(mount):
                break
            time.sleep(0.02)
        else:
            pytest.skip("bindfs does not mount here")
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        process.terminate()
        process.wait(10)


@pytest.mark.skipif(shutil.which("bindfs") is None or os.geteuid() != 0, reason="needs bindfs and root")
async def test_a_share_that_hangs_stalls_only_its_own_camera(tmp_path: Path) -> None:
    source, mount, other = tmp_path / "source", tmp_path / "mount", tmp_path / "other"
    for path in (source, mount, other):
        path.mkdir()
    with _bindfs(source, mount) as server:
        cameras = [camera(mount), camera(other, name="cam2", poll_s=0.5)]
        async with Station(tmp_path, cameras, stall_s=1.0).running() as station:
            assert station.intake.snapshot()[0].mode == "poll"
            drop(source, "a.png", picture(1))
            landing = await station.landing()
            os.kill(server, signal.SIGSTOP)
            try:
                await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.DOWN, 10)
                assert station.intake.snapshot()[0].stalled_since is not None
                await station.until(lambda: ("folder-stalled", "cam") in [(kind, data["camera"]) for kind, data in station.events])
                for number in range(5):
                    began = time.monotonic()
                    drop(other, f"{number}.png", picture(number))
                    assert (await station.landing()).camera == "cam2"
                    assert time.monotonic() - began < 1.0
                drop(source, "meanwhile.png", picture(7))
                held_up = station.intake.done(landing, Recorded(Recording.RECORDED, ("x",), (VerdictKind.ERROR,)))
                await asyncio.wait_for(held_up, 3)  # its copy for quarantine cannot be had, and nobody waits for it
            finally:
                os.kill(server, signal.SIGCONT)
            assert (await station.landing(10)).path == b"meanwhile.png"
            await station.until(lambda: station.health.items["folder:cam"][0] is HealthStatus.OK)


async def test_a_share_whose_directory_mtime_stands_still_is_listed_at_every_poll_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    config = camera(folder, mode="poll", poll_s=0.1, reconcile_s=1.0)
    async with Station(tmp_path, [config]).running() as station:
        await asyncio.sleep(3.6)  # until the directory's mtime is old enough to be trusted
        for number in range(3):
            facts = folder.stat()
            drop(folder, f"{number}.png", picture(number))
            os.utime(folder, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            began = time.monotonic()
            await station.judge(await station.landing())
            if number:
                assert time.monotonic() - began < 0.9


async def test_a_folder_behind_a_symbolic_link_survives_its_reconcile_passes(tmp_path: Path) -> None:
    folder, link = tmp_path / "drop", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    async with Station(tmp_path, [camera(link, mode="poll", reconcile_s=0.3)]).running() as station:
        drop(folder, "a.png", picture(1))
        await station.judge(await station.landing())
        await station.until(lambda: station.intake.snapshot()[0].reconcile_took_s > 0)
        await asyncio.sleep(0.5)
        assert station.health.items["folder:cam"][0] is HealthStatus.OK


async def test_a_quiet_directory_is_not_listed_at_each_poll_and_a_moved_mtime_has_it_listed_at_once(tmp_path: Path) -> None:
    folder, below = tmp_path / "drop", tmp_path / "drop" / "L1"
    below.mkdir(parents=True)
    async with Station(tmp_path, [camera(folder, mode="poll", recursive=True)]).running() as station:
        await asyncio.sleep(3.6)  # until both directories' mtimes are old enough to be trusted
        for directory in (folder, below):
            facts = directory.stat()
            drop(directory, f"unseen-{directory.name}.png", picture(1))
            os.utime(directory, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        await station.nothing(1.0)
        drop(below, "seen.png", picture(2))
        assert {(await station.landing()).path, (await station.landing()).path} == {b"L1/unseen-L1.png", b"L1/seen.png"}
        await station.nothing(0.5)
        os.utime(folder)
        assert (await station.landing()).path == b"unseen-drop.png"


async def test_mtimes_that_lie_are_told_once_and_the_reconcile_pass_says_what_it_costs(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    with structlog.testing.capture_logs() as logs:
        async with Station(tmp_path, [camera(folder, mode="poll", reconcile_s=0.5)]).running() as station:
            await asyncio.sleep(3.6)
            for number in range(3):
                facts = folder.stat()
                drop(folder, f"{number}.png", picture(number))
                os.utime(folder, ns=(facts.st_atime_ns, facts.st_mtime_ns))
                await station.judge(await station.landing())
            assert station.health.facts["folder:cam"]["reconcile_took_s"] >= 0
            assert station.intake.snapshot()[0].reconcile_took_s > 0
    warnings = [entry for entry in logs if entry["event"] == "intake.directory_mtime_unreliable"]
    assert [(entry["camera"], entry["log_level"]) for entry in warnings] == [("cam", "warning")]
