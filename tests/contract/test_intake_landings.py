"""From real files in real folders to landings: by inotify and by polling alone, the same promises."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest
import structlog

from contract.intake_station import Memory, Station, camera, drop, picture
from edged.config import Camera, IdentitySource, Recipe, Reference
from edged.intake.inotify import Inotify
from edged.nouns import HealthStatus, VerdictKind

MODES = ["inotify", "poll"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


@pytest.mark.parametrize("mode", MODES)
async def test_a_file_renamed_into_place_lands_once(folder: Path, tmp_path: Path, mode: str) -> None:
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        path = drop(folder, "a.png", picture())
        landing = await station.landing()
        facts = path.stat()
        assert (landing.path, landing.size, landing.mtime_ns, landing.inode) == (b"a.png", facts.st_size, facts.st_mtime_ns, facts.st_ino)
        assert (landing.camera, landing.recipe, landing.rejected) == ("cam", "r", None)
        await station.judge(landing)
        await station.nothing(0.5)


async def test_a_rename_into_place_is_sent_in_well_under_a_tenth_of_a_second(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, poll_s=2)]).running() as station:
        await asyncio.sleep(0.2)
        took = []
        for number in range(5):
            data = picture(number)
            began = time.monotonic()
            drop(folder, f"{number}.png", data)
            await station.judge(await station.landing())
            took.append(time.monotonic() - began)
        assert sorted(took)[2] < 0.09


@pytest.mark.parametrize("mode", MODES)
async def test_files_that_lay_there_at_the_start_are_judged(folder: Path, tmp_path: Path, mode: str) -> None:
    for number in range(20):
        drop(folder, f"{number}.png", picture(number))
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        names = {(await station.landing()).path for _ in range(20)}
        assert names == {f"{number}.png".encode() for number in range(20)}


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_recorded_is_not_sent_again_after_a_restart(folder: Path, tmp_path: Path, mode: str) -> None:
    memory = Memory()
    drop(folder, "a.png", picture())
    async with Station(tmp_path, [camera(folder, mode=mode)], memory=memory).running() as station:
        await station.judge(await station.landing())
    async with Station(tmp_path, [camera(folder, mode=mode)], memory=memory).running() as station:
        await station.nothing(0.5)
        drop(folder, "b.png", picture(2))
        assert (await station.landing()).path == b"b.png"


@pytest.mark.parametrize("mode", MODES)
async def test_a_slow_writer_lands_only_when_it_has_finished(folder: Path, tmp_path: Path, mode: str) -> None:
    data = picture(side=200)
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        with (folder / "slow.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 6):
                file.write(data[start : start + len(data) // 6])
                file.flush()
                await asyncio.sleep(0.12)
                if start < len(data) // 2:
                    await station.nothing(0.01)
                    assert station.intake.whereabouts("slow.png")[0]["state"]
        landing = await station.landing()
        assert landing.size == len(data)


@pytest.mark.parametrize("mode", MODES)
async def test_a_writer_that_closes_and_opens_again_lands_whole(folder: Path, tmp_path: Path, mode: str) -> None:
    data = picture(side=200)
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        for start in range(0, len(data), 10_000):
            with (folder / "piece.png").open("ab") as file:
                file.write(data[start : start + 10_000])
            await asyncio.sleep(0.3)
        assert (await station.landing()).size == len(data)
        await station.nothing(0.3)


async def test_a_preallocated_file_is_shown_as_still_being_written_and_lands_when_filled(folder: Path, tmp_path: Path) -> None:
    data = picture(side=200, extension=".bmp")
    path = folder / "copy.bmp"
    async with Station(tmp_path, [camera(folder, mode="poll")]).running() as station:
        path.write_bytes(data[:5000] + bytes(len(data) - 5000))
        mtime = path.stat().st_mtime_ns
        await station.nothing(0.5)
        with path.open("r+b") as file:
            file.write(data)
        os.utime(path, ns=(mtime, mtime))
        assert (await station.landing()).rejected is None


async def test_a_file_that_stays_incomplete_is_truncated_and_judged_again_when_completed(folder: Path, tmp_path: Path) -> None:
    data = picture()
    async with Station(tmp_path, [camera(folder, incomplete_after_s=0.6)]).running() as station:
        (folder / "half.png").write_bytes(data[: len(data) // 2])
        await asyncio.sleep(0.35)
        assert [each.name for each in station.intake.snapshot()[0].writing] == ["half.png"]
        landing = await station.landing()
        assert landing.rejected == "truncated"
        assert "IDAT" in landing.rejected_detail or "IEND" in landing.rejected_detail
        await station.judge(landing, VerdictKind.ERROR)
        assert [path.read_bytes() for path in station.quarantine.iterdir()] == [data[: len(data) // 2]]
        await station.nothing(0.5)
        with (folder / "half.png").open("ab") as file:
            file.write(data[len(data) // 2 :])
        landing = await station.landing()
        assert (landing.rejected, landing.size) == (None, len(data))


@pytest.mark.parametrize("mode", MODES)
async def test_neither_a_rename_nor_a_close_makes_half_a_file_land(folder: Path, tmp_path: Path, mode: str) -> None:
    whole = picture()
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        drop(folder, "renamed.png", whole[: len(whole) // 2])
        (folder / "closed.png").write_bytes(whole[: len(whole) // 2])
        await station.nothing(1.0)
        assert {"renamed.png", "closed.png"} == {each.name for each in station.intake.snapshot()[0].writing}
        for name in ("renamed.png", "closed.png"):
            with (folder / name).open("ab") as file:
                file.write(whole[len(whole) // 2 :])
        assert {(await station.landing()).size, (await station.landing()).size} == {len(whole)}


@pytest.mark.parametrize("mode", MODES)
async def test_a_zero_byte_file_is_truncated(folder: Path, tmp_path: Path, mode: str) -> None:
    async with Station(tmp_path, [camera(folder, mode=mode, incomplete_after_s=0.4)]).running() as station:
        (folder / "empty.png").touch()
        assert (await station.landing()).rejected == "truncated"


async def test_a_name_re_used_with_new_content_is_a_new_landing_at_once(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, poll_s=2)]).running() as station:
        for seed in range(4):
            drop(folder, "same.png", picture(seed))
            landing = await station.landing(1.0)
            assert landing.mtime_ns == (folder / "same.png").stat().st_mtime_ns
            await station.judge(landing)


async def test_a_name_re_used_on_a_share_is_found_by_the_reconcile_pass(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, mode="poll", reconcile_s=0.5)]).running() as station:
        (folder / "same.png").write_bytes(picture(1))
        await station.judge(await station.landing())
        (folder / "same.png").write_bytes(picture(2))
        await station.judge(await station.landing())


async def test_a_name_re_used_while_its_first_image_is_in_flight_is_not_missed(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        drop(folder, "same.png", picture(1))
        first = await station.landing()
        drop(folder, "same.png", picture(2))
        await asyncio.sleep(0.3)
        await station.judge(first)
        second = await station.landing()
        assert second.mtime_ns != first.mtime_ns or second.size != first.size


@pytest.mark.parametrize("mtime_s", [0, 4_102_444_800, -86_400])
async def test_mtimes_of_1970_or_of_the_year_2100_do_not_matter(folder: Path, tmp_path: Path, mtime_s: int) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        temporary = folder / ".tmp"
        temporary.write_bytes(picture())
        os.utime(temporary, (mtime_s, mtime_s))
        temporary.rename(folder / "odd.png")
        assert (await station.landing()).mtime_ns == mtime_s * 10**9


NAMES = [b"new\nline.png", b"'quo\"te.png", b"\xff\xfe\x80.png", b"-rf.png", b"$(id) %n%s.png", b"\x1b[31mred.png"]
NAMES += ["ü漢\u202e.png".encode(), b"a" * 251 + b".png"]


@pytest.mark.parametrize("mode", MODES)
async def test_any_bytes_a_file_system_allows_make_a_name(folder: Path, tmp_path: Path, mode: str) -> None:
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        for number, name in enumerate(NAMES):
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture(number))
        landings = [await station.landing() for _ in NAMES]
        assert {landing.path for landing in landings} == set(NAMES)
        assert all(landing.name.isprintable() for landing in landings)
        for landing in landings:
            await station.judge(landing)
        await station.nothing(0.3)


@pytest.mark.parametrize("mode", MODES)
async def test_links_fifos_sockets_and_directories_are_no_landings_but_told(folder: Path, tmp_path: Path, mode: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture())
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        (folder / "link.png").symlink_to(secret)
        os.mkfifo(folder / "fifo.png")
        (folder / "directory.png").mkdir()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "socket.png"))
        await station.nothing(0.6)
        told = {data["file"]: data["cause"] for kind, data in station.events if kind == "ignored"}
        assert set(told) == {"link.png", "fifo.png", "directory.png", "socket.png"}
        assert "symbolic link" in station.intake.whereabouts("link.png")[0]["state"]
        drop(folder, "real.png", picture())
        assert (await station.landing()).path == b"real.png"


async def test_a_file_with_several_hard_links_waits_until_it_has_one(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(picture())
    async with Station(tmp_path, [camera(folder)]).running() as station:
        os.link(other, folder / "linked.png")
        await station.nothing(0.5)
        assert "hard links" in station.intake.whereabouts("linked.png")[0]["state"]
        other.unlink()
        assert (await station.landing()).path == b"linked.png"


@pytest.mark.parametrize("mode", MODES)
async def test_a_recursive_camera_finds_images_in_new_directories(folder: Path, tmp_path: Path, mode: str) -> None:
    (folder / "old").mkdir()
    drop(folder / "old", "a.png", picture(1))
    async with Station(tmp_path, [camera(folder, mode=mode, recursive=True)]).running() as station:
        await station.judge(await station.landing())
        (folder / "L1" / "W2").mkdir(parents=True)
        (folder / ".hidden").mkdir()
        drop(folder / ".hidden", "no.png", picture(3))
        drop(folder / "L1" / "W2", "b.png", picture(2))
        landing = await station.landing()
        assert landing.path == b"L1/W2/b.png"
        await station.judge(landing)
        drop(folder / "L1" / "W2", "c.png", picture(4))
        assert (await station.landing()).path == b"L1/W2/c.png"


async def test_files_that_no_glob_wants_are_counted_and_traceable(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        for name in ("notes.txt", ".hidden.png", "~temp.png"):
            (folder / name).write_bytes(picture())
        drop(folder, "a.PNG", picture())
        assert (await station.landing()).path == b"a.PNG"
        await station.until(lambda: station.intake.snapshot()[0].ignored == 3)
        assert "include" in (station.intake.unwanted("notes.txt") or {})["state"]
        assert "exclude" in (station.intake.unwanted("~temp.png") or {})["state"]


async def test_a_name_is_unwanted_only_when_no_camera_would_take_it(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    cameras = [camera(folder, name="jpegs", include=("*.jpg",)), camera(other, name="tiffs", include=("*.tif",))]
    async with Station(tmp_path, cameras).running() as station:
        assert station.intake.unwanted("a.tif") is None
        assert (station.intake.unwanted("a.png") or {})["camera"] == "jpegs"
        assert station.intake.whereabouts("a.png") == []


async def test_a_file_belongs_to_the_first_camera_that_wants_it(folder: Path, tmp_path: Path) -> None:
    cameras = [camera(folder, name="jpegs", include=("*.jpg",)), camera(folder, name="rest", include=("*",))]
    async with Station(tmp_path, cameras).running() as station:
        drop(folder, "a.jpg", picture(extension=".jpg"))
        drop(folder, "b.png", picture())
        found = {(landing.camera, landing.path) for landing in [await station.landing(), await station.landing()]}
        assert found == {("jpegs", b"a.jpg"), ("rest", b"b.png")}
        await station.nothing(0.3)


async def test_a_baseline_camera_judges_only_what_comes_after_its_first_start(folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        drop(folder, f"old{number}.png", picture(number))
    memory = Memory()
    async with Station(tmp_path, [camera(folder, existing="baseline")], memory=memory).running() as station:
        await station.until(lambda: len(memory.baselined) == 30)
        drop(folder, "new.png", picture(99))
        landing = await station.landing()
        assert landing.path == b"new.png"
        await station.nothing(0.3)
        await station.judge(landing)
    # A file of the baseline that changes is an image; so is all that is new at a later start.
    drop(folder, "old3.png", picture(77))
    async with Station(tmp_path, [camera(folder, existing="baseline")], memory=memory).running() as station:
        assert (await station.landing()).path == b"old3.png"
        await station.nothing(0.3)
    assert len(memory.baselined) == 30


async def test_a_baseline_cut_off_goes_on_with_what_lay_there_before_it_and_judges_the_rest(folder: Path, tmp_path: Path) -> None:
    old = [drop(folder, f"old{number}.png", picture(number)) for number in range(6)]
    await asyncio.sleep(0.05)
    memory = Memory()
    memory.started.add("cam")
    memory.baselining["cam"] = time.time_ns()
    await memory.baseline("cam", [(b"old0.png", old[0].stat().st_size, old[0].stat().st_mtime_ns)])
    await asyncio.sleep(0.05)
    # While nobody looked: a new image that brings an old time, and a name that was re-used.
    (folder / ".aside").write_bytes(picture(50))
    os.utime(folder / ".aside", (1e9, 1e9))
    (folder / ".aside").rename(folder / "new.png")
    drop(folder, "old5.png", picture(51))
    async with Station(tmp_path, [camera(folder, existing="baseline")], memory=memory).running() as station:
        landings = [await station.landing(), await station.landing()]
        assert {landing.path for landing in landings} == {b"new.png", b"old5.png"}
        await station.until(lambda: not memory.baselining)
        await station.nothing(0.3)
    assert sorted(memory.baselined) == [b"old%d.png" % number for number in range(5)]


async def test_a_baseline_cut_off_before_the_clock_was_set_back_judges_the_rest(folder: Path, tmp_path: Path) -> None:
    drop(folder, "a.png", picture())
    memory = Memory()
    memory.started.add("cam")
    memory.baselining["cam"] = time.time_ns() + 3600 * 10**9
    async with Station(tmp_path, [camera(folder, existing="baseline")], memory=memory).running() as station:
        assert (await station.landing()).path == b"a.png"
    assert memory.baselined == []


async def test_a_held_recipe_waits_in_the_folder_and_starves_no_other_camera(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with Station(tmp_path, [camera(folder), camera(other, name="cam2")]).running() as station:
        station.held.add(("cam", "r"))
        drop(folder, "held.png", picture(1))
        drop(other, "free.png", picture(2))
        assert (await station.landing()).path == b"free.png"
        await station.nothing(0.3)
        station.held.clear()
        assert (await station.landing()).path == b"held.png"


async def test_what_is_put_back_is_looked_at_and_sent_again(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        drop(folder, "a.png", picture(1))
        first = await station.landing()
        station.held.add(("cam", "r"))
        station.intake.put_back(first)
        await station.nothing(0.4)
        station.held.clear()
        second = await station.landing()
        assert (second.path, second.detected) == (first.path, first.detected)
        station.intake.put_back(second)
        assert (await station.landing()).path == b"a.png"


async def test_a_file_that_disappears_before_its_verdict_is_told_as_vanished(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        (folder / "gone.png").write_bytes(picture()[:100])
        await asyncio.sleep(0.3)
        (folder / "gone.png").unlink()
        await station.until(lambda: any(kind == "vanished" and data["file"] == "gone.png" for kind, data in station.events))
        drop(folder, "read.png", picture())
        landing = await station.landing()
        (folder / "read.png").unlink()
        await station.intake.vanished(landing)
        await station.until(lambda: any(kind == "vanished" and data["file"] == "read.png" for kind, data in station.events))
        assert station.intake.snapshot()[0].in_flight == 0


async def test_a_temporary_name_that_the_globs_want_is_no_vanished_image_when_renamed(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        (folder / "part_a.png").write_bytes(picture()[:200])
        await asyncio.sleep(0.25)
        (folder / "part_a.png").write_bytes(picture())
        (folder / "part_a.png").rename(folder / "a.png")
        assert (await station.landing()).path == b"a.png"
        await asyncio.sleep(0.3)
        assert [kind for kind, _ in station.events] == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_recorded_file_that_leaves_the_folder_is_told_to_the_ledger(folder: Path, tmp_path: Path, mode: str) -> None:
    async with Station(tmp_path, [camera(folder, mode=mode)]).running() as station:
        drop(folder, "a.png", picture())
        await station.judge(await station.landing())
        (folder / "a.png").rename(folder / "b.png")
        landing = await station.landing()
        assert landing.path == b"b.png"
        await station.until(lambda: station.memory.vanishings == [b"a.png"])


async def test_a_rename_is_told_before_the_new_name_lands(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, poll_s=2)]).running() as station:
        drop(folder, "a.png", picture())
        await station.judge(await station.landing())
        (folder / "a.png").rename(folder / "b.png")
        await station.landing()
        assert station.memory.vanishings == [b"a.png"]


async def test_a_sidecar_is_waited_for_and_tells_who_the_image_is(folder: Path, tmp_path: Path) -> None:
    source = IdentitySource(kind="sidecar-json")
    async with Station(tmp_path, [camera(folder, identity=(source,), sidecar_wait_s=5, poll_s=2)]).running() as station:
        drop(folder, "a.png", picture())
        await station.nothing(0.3)
        assert "sidecar" in station.intake.whereabouts("a.png")[0]["state"]
        (folder / "a.json").write_text('{"lot_id": "L1", "wafer_id": "W2", "recipe": "unheard of"}')
        landing = await station.landing(1.0)
        assert (landing.identity.material.lot_id, landing.identity.material.complete) == ("L1", True)
        assert (landing.recipe, landing.identity.recipe) == ("r", "unheard of")
        assert landing.sidecar == (folder / "a.json").read_bytes()


async def test_a_broken_sidecar_is_told_while_the_image_waits_and_logged_when_it_goes_without(folder: Path, tmp_path: Path) -> None:
    source = IdentitySource(kind="sidecar-json")
    with structlog.testing.capture_logs() as logs:
        async with Station(tmp_path, [camera(folder, identity=(source,), sidecar_wait_s=1.5)]).running() as station:
            (folder / "bad.json").write_text('{"lot')
            drop(folder, "bad.png", picture())
            await station.until(lambda: any("no clean JSON" in each["state"] for each in station.intake.whereabouts("bad.png")))
            drop(folder, "none.png", picture(2))
            assert {(await station.landing()).path, (await station.landing()).path} == {b"bad.png", b"none.png"}
    told = [entry for entry in logs if entry["event"] == "intake.sidecar_unreadable"]
    assert [(entry["image"], entry["sidecar"], entry["log_level"]) for entry in told] == [("bad.png", "bad.json", "warning")]
    assert "no clean JSON" in told[0]["reason"]


async def test_a_sidecar_that_never_comes_does_not_hold_the_image(folder: Path, tmp_path: Path) -> None:
    source = IdentitySource(kind="sidecar-xml")
    async with Station(tmp_path, [camera(folder, identity=(source,), sidecar_wait_s=0.5)]).running() as station:
        drop(folder, "a.png", picture())
        assert not (await station.landing()).identity.material.complete


async def test_golden_references_are_no_landings_and_are_waited_for_a_moment(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(name="r", models=("m",), reference=Reference(pattern="{stem}_temp.{ext}"))
    async with Station(tmp_path, [camera(folder, poll_s=1)], {"r": recipe}).running() as station:
        drop(folder, "a.png", picture(1))
        await station.nothing(0.3)
        drop(folder, "a_temp.png", picture(2))
        assert (await station.landing(0.5)).path == b"a.png"
        await station.nothing(0.2)
        drop(folder, "alone.png", picture(3))
        began = time.monotonic()
        assert (await station.landing()).path == b"alone.png"
        assert 0.9 < time.monotonic() - began < 3.0


async def test_a_full_channel_blocks_its_sender_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)], capacity=2).running() as station:
        for number in range(40):
            drop(folder, f"{number}.png", picture(number, 16))
        await asyncio.sleep(0.5)
        assert len(station.channel) == 2
        names = set()
        for _ in range(40):
            landing = await station.landing()
            names.add(landing.path)
            await station.judge(landing)
        assert len(names) == 40
        await station.nothing(0.3)


async def test_an_overflow_of_events_loses_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    station = Station(tmp_path, [camera(folder, poll_s=0.2)], capacity=100_000)
    async with station.running():
        await asyncio.sleep(0.3)
        data = picture(1, 8)
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        count = limit // 2 + 500  # created, written and closed: two events a file that we asked for
        for number in range(count):  # without giving the loop a chance to read its events
            (folder / f"{number}.png").write_bytes(data)
        names = set()
        async with asyncio.timeout(60):
            while len(names) < count:
                landing = await station.channel.receive()
                assert landing.path not in names
                names.add(landing.path)
                station.memory.recorded["cam", landing.path] = (landing.size, landing.mtime_ns)
                await station.intake.done(landing, await station.judge(landing) if len(names) < 3 else _recorded())
        assert station.intake.snapshot()[0].overflows >= 1


def _recorded() -> object:
    from edged.nouns import Recorded, Recording

    return Recorded(Recording.RECORDED, ("x",), (VerdictKind.PASS,))


async def test_without_inotify_polling_does_and_health_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Inotify, *_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Inotify, "__init__", refuse)
    async with Station(tmp_path, [camera(folder)]).running() as station:
        drop(folder, "a.png", picture())
        await station.landing()
        status, cause, hint = station.health.items["folder:cam"]
        assert (status, "polling instead" in cause, "fs.inotify" in hint) == (HealthStatus.DEGRADED, True, True)


async def test_a_ledger_that_is_away_delays_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        station.memory.away = True
        drop(folder, "a.png", picture())
        await station.nothing(0.5)
        station.memory.away = False
        assert (await station.landing()).path == b"a.png"


def test_the_defaults_of_a_camera_are_those_of_the_contract(tmp_path: Path) -> None:
    plain = Camera(name="c", folder=tmp_path, recipe="r")
    assert {glob.removeprefix("*.") for glob in plain.include} == {"jpg", "jpeg", "png", "bmp", "tif", "tiff"}
    assert set(plain.exclude) == {".*", "~*"}
    assert (plain.after, plain.mode, plain.existing) == ("keep", "auto", "judge")
    assert (plain.poll_s, plain.reconcile_s, plain.incomplete_after_s, plain.sidecar_late_s) == (2.0, 300.0, 300.0, 86_400.0)
    assert (plain.effective_sidecar_wait_s, plain.effective_move_to) == (0.0, tmp_path / ".done")
    sidecar = Camera(name="c", folder=tmp_path, recipe="r", identity=(IdentitySource(kind="sidecar-json"),))
    assert sidecar.effective_sidecar_wait_s == 10.0
