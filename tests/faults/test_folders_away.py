"""Shares that go away, in every way a share does, while another camera works on. One station goes through them all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rigs.disk import Disk
from rigs.fuse import Fuse
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

RATE = 10.0
NAMED_S = 10.0


@contextmanager
def _others_keep_their_rate(station: Station, during: str) -> Iterator[None]:
    """The camera `steady` gets RATE images a second while the block runs, and judges at least 95 % of them within it (and a second)."""
    before = sum(row.image[0] == "steady" for row in station.rows())
    dropped = len(station.dropped)
    with station.feeding(RATE, "steady"):
        yield
    fed = sum(image[0] == "steady" for image in list(station.dropped)[dropped:])
    time.sleep(1.0)
    judged = sum(row.image[0] == "steady" for row in station.rows()) - before
    assert judged >= 0.95 * fed > 0, f"{during}: {judged} of {fed} images of the other camera were judged meanwhile"


def _down(station: Station, camera: str, *words: str) -> float:
    """Waits until health says that the camera's folder is down, naming it; returns after how many seconds."""
    began = time.monotonic()
    item = station.wait_health(f"folder:{camera}", "down", NAMED_S)
    took_s = time.monotonic() - began
    for word in words:
        assert word in item["cause"], item
    assert item["hint"]
    return took_s


class _Back:
    """From its making, when the fault ends, to the camera's first new verdict."""

    def __init__(self, station: Station, camera: str) -> None:
        self._station, self._camera, self._began = station, camera, time.time()

    def settled_s(self) -> float:
        self._station.settle()
        new = [row.at for row in self._station.rows() if row.image[0] == self._camera and row.at > self._began]
        assert new, f"{self._camera} has judged nothing since it is back"
        return round(min(new) - self._began, 2)


def _unmounted(station: Station, disk: Disk, fault: Any) -> None:
    with _others_keep_their_rate(station, "unmounted"):
        subprocess.run(["umount", str(disk.folder)], check=True, capture_output=True)  # not lazily: nobody keeps it busy
        named_s = _down(station, "mounted", "no longer mounted", str(disk.folder))
        (disk.folder / "bare.png").write_bytes(wafer_map(999_999))  # nobody dropped this on the share
        time.sleep(2)
        (disk.folder / "bare.png").unlink()
        disk.mount()
        back = _Back(station, "mounted")
        station.drop(10, "mounted")
    recovered_s = back.settled_s()
    fault.row(
        fault="share unmounted, files under the bare mount point, remounted",
        how="umount of a loop image",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"named in {named_s:.1f} s",
    )


def _hanging(station: Station, share: Fuse, fault: Any) -> None:
    with _others_keep_their_rate(station, "hanging"), station.feeding(RATE, "fuse"):
        time.sleep(1)
        with share.hanging():
            named_s = _down(station, "fuse", "does not answer", str(share.folder))
            time.sleep(4)
        back = _Back(station, "fuse")
        time.sleep(1)
    recovered_s = back.settled_s()
    station.wait_health("folder:fuse", "ok")
    fault.row(
        fault="share hangs under load",
        how="SIGSTOP of its FUSE server for 9 s",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"named in {named_s:.1f} s",
    )


def _stale(station: Station, share: Fuse, fault: Any) -> None:
    with _others_keep_their_rate(station, "stale"):
        share.die()
        named_s = _down(station, "fuse", str(share.folder))
        share.unmount()
        time.sleep(1)
        share.mount()
        back = _Back(station, "fuse")
        station.drop(10, "fuse")
    recovered_s = back.settled_s()
    fault.row(
        fault="share stale, then unmounted and mounted again",
        how="kill -9 of its FUSE server (ENOTCONN)",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"named in {named_s:.1f} s",
    )


def _locked(station: Station, fault: Any) -> None:
    folder = station.folders["local"]
    with _others_keep_their_rate(station, "locked"):
        station.drop(5, "local")
        folder.chmod(0)
        named_s = _down(station, "local", str(folder), "Permission denied")
        station.drop(5, "local")  # the tool is another user
        folder.chmod(0o755)
        back = _Back(station, "local")
    recovered_s = back.settled_s()
    fault.row(
        fault="permission on the folder lost",
        how="chmod 0, the daemon without root's powers",
        tally=station.tally(),
        recovered_s=recovered_s,
        note=f"named in {named_s:.1f} s",
    )


def _read_only(station: Station, disk: Disk, fault: Any) -> None:
    """`after = "move"` cannot be done then: the images are judged, the fault is told, and they move once they can."""
    station.drop(5, "mounted")
    station.settle()
    wait_until(lambda: not list(disk.folder.glob("*.png")), 10, "judged files are moved away")
    with _others_keep_their_rate(station, "read-only"):
        station.drop(5, "mounted")
        subprocess.run(["mount", "-o", "remount,ro", str(disk.folder)], check=True, capture_output=True)
        time.sleep(3)
        subprocess.run(["mount", "-o", "remount,rw", str(disk.folder)], check=True, capture_output=True)
        back = _Back(station, "mounted")
        station.drop(5, "mounted")
    recovered_s = back.settled_s()
    fault.row(
        fault="share remounted read-only, and back",
        how="mount -o remount,ro for 3 s",
        tally=station.tally(),
        recovered_s=recovered_s,
    )


def _idle(station: Station, camera: str) -> bool:
    (facts,) = (each for each in station.daemon.get("/api/v1/cameras")["cameras"] if each["name"] == camera)
    return bool(facts["waiting"] + facts["in_flight"] == 0)


def _made_anew(station: Station, fault: Any) -> None:
    folder = station.folders["local"]
    aside = folder.with_name("local-aside")
    with _others_keep_their_rate(station, "deleted and replaced"):
        folder.rename(aside)
        _down(station, "local", str(folder), "No such file")
        folder.mkdir()  # made anew
        back = _Back(station, "local")
        station.drop(10, "local")
        recovered_s = back.settled_s()
        other = folder.with_name("local-other")
        folder.rename(other)
        aside.rename(folder)  # replaced by another directory: the first one, all of whose files are recorded
        station.drop(5, "local")
        station.settle()
        wait_until(lambda: _idle(station, "local"), 20, "every file that is back is looked at: it was judged before")
        folder.rename(aside)
        other.rename(folder)
        station.drop(5, "local")
    station.settle()
    wait_until(lambda: _idle(station, "local"), 20, "every file is looked at: one judged twice would show by now")
    fault.row(
        fault="folder deleted, made anew, replaced by another directory and back",
        how="rename of whole directories",
        tally=station.tally(),
        recovered_s=recovered_s,
    )


@pytest.mark.fault("share away", matrix=(15, 34))
def test_a_share_that_goes_away_in_any_way_holds_up_its_own_camera_only_and_loses_nothing(
    start_station: Callable[..., Station], make_disk: Callable[..., Disk], make_fuse: Callable[[], Fuse], fault: Any
) -> None:
    disk, share = make_disk(), make_fuse()
    cameras = {"steady": "", "mounted": 'after = "move"', "fuse": "", "local": ""}
    station = start_station(cameras=cameras, folders={"mounted": disk.folder, "fuse": share.folder}, daemon=False)
    station.daemon.start_without_override()
    wait_until(lambda: station.daemon.get("/readyz") is not None, 45, "the daemon is ready")
    station.drop(40)
    station.settle()
    _unmounted(station, disk, fault)
    _hanging(station, share, fault)
    _stale(station, share, fault)
    _locked(station, fault)
    _read_only(station, disk, fault)
    _made_anew(station, fault)
    assert [arrival.said["data"] for arrival in station.mes.arrivals if arrival.topic.endswith("/event/vanished")] == []


@pytest.mark.fault("inotify sees nothing of a share", matrix=(35,))
def test_files_written_behind_a_fuse_share_are_seen_by_polling(
    start_station: Callable[..., Station], make_fuse: Callable[[], Fuse], fault: Any
) -> None:
    share = make_fuse()
    station = start_station(folders={"cam1": share.folder})
    assert station.daemon.get("/api/v1/cameras")["cameras"][0]["mode"] == "poll"
    station.folders = {"cam1": share.behind}
    station.over()
    paths: list[Path] = station.drop(30, "cam1")
    began = time.monotonic()
    recovered_s = station.settle(20)
    assert time.monotonic() - began < 10, paths[0]
    fault.row(how="bindfs, written on the server's side", tally=station.tally(), recovered_s=recovered_s)
