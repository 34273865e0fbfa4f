"""After the commit: keep, move or delete, without ever replacing, losing or judging a file twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.intake_station import Memory, Station, camera, drop, picture
from edged.config import After, IdentitySource
from edged.intake.disposal import Disposal, Outcome, Pending
from edged.intake.quarantine import Quarantine
from edged.intake.renaming import rename_new
from edged.nouns import Recording, VerdictKind
from edged.shelf import Limits

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ID = "5f6c1e77-7b1e-8c44-9d55-3f0a2b6c1e77"
DAY = "2026-11-24"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


def pending(path: Path, folder: Path, data: bytes | None = None, inode: int | None = None) -> Pending:
    facts = path.stat()
    digest = hashlib.sha256(path.read_bytes() if data is None else data).hexdigest()
    return Pending(os.fsencode(path.relative_to(folder)), facts.st_size, facts.st_mtime_ns, digest, ID, inode)


def disposal(folder: Path, **options: object) -> Disposal:
    return Disposal(camera(folder, **options), lambda: NOON, lambda: None)


def test_a_judged_file_moves_to_the_dated_folder(folder: Path) -> None:
    path = drop(folder, "a.png", picture())
    done = disposal(folder, after="move").dispose(pending(path, folder))
    target = folder / ".done" / DAY / "a.png"
    assert (done.outcome, done.new_path) == (Outcome.MOVED, str(target))
    assert target.read_bytes() == picture()
    assert [each.name for each in folder.iterdir()] == [".done"]


def test_a_file_of_the_same_name_in_the_dated_folder_is_never_replaced(folder: Path) -> None:
    way = disposal(folder, after="move")
    for seed in range(3):
        way.dispose(pending(drop(folder, "a.png", picture(seed)), folder))
    shelf = folder / ".done" / DAY
    assert {each.name: each.read_bytes() for each in shelf.iterdir()} == {
        "a.png": picture(0),
        f"a~{ID[:8]}.png": picture(1),
        f"a~{ID}.png": picture(2),
    }


def test_a_recursive_camera_keeps_its_directories_in_the_dated_folder(folder: Path) -> None:
    (folder / "L1").mkdir()
    path = drop(folder / "L1", "a.png", picture())
    disposal(folder, after="move", recursive=True).dispose(pending(path, folder))
    assert (folder / ".done" / DAY / "L1" / "a.png").is_file()


def test_a_delete_proves_the_content_first(folder: Path) -> None:
    path = drop(folder, "a.png", picture())
    assert disposal(folder, after="delete").dispose(pending(path, folder)).outcome is Outcome.DELETED
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("after", ["move", "delete"])
def test_a_name_the_tool_re_used_keeps_its_new_file(folder: Path, after: str) -> None:
    path = drop(folder, "a.png", picture(1))
    row = pending(path, folder)
    drop(folder, "a.png", picture(2))
    assert disposal(folder, after=after).dispose(row).outcome is Outcome.REPLACED
    assert path.read_bytes() == picture(2)


@pytest.mark.parametrize("after", ["move", "delete"])
def test_another_content_of_the_same_size_and_mtime_goes_back_unharmed(folder: Path, after: str) -> None:
    path = drop(folder, "a.png", b"A" * 1000)
    row = pending(path, folder)
    facts = path.stat()
    drop(folder, "a.png", b"B" * 1000)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = disposal(folder, after=after).dispose(row)
    assert (done.outcome, done.returned) == (Outcome.REPLACED, b"a.png")
    assert {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()} == {"a.png": b"B" * 1000}


def test_a_file_taken_aside_before_a_crash_goes_on_from_there(folder: Path) -> None:
    path = drop(folder, "a.png", picture(1))
    row = pending(path, folder)
    path.rename(folder / f".edged-{ID}")
    drop(folder, "a.png", picture(2))
    assert disposal(folder, after="move").dispose(row).outcome is Outcome.MOVED
    assert (folder / ".done" / DAY / "a.png").read_bytes() == picture(1)
    assert path.read_bytes() == picture(2)


def test_a_crash_between_the_move_and_its_record_is_recognised(folder: Path) -> None:
    path = drop(folder, "a.png", picture())
    row = pending(path, folder)
    first = disposal(folder, after="move").dispose(row)
    assert disposal(folder, after="move").dispose(row) == first


def test_a_file_somebody_took_away_is_gone(folder: Path) -> None:
    path = drop(folder, "a.png", picture())
    row = pending(path, folder)
    path.unlink()
    assert disposal(folder, after="move").dispose(row).outcome is Outcome.GONE


def test_across_file_systems_the_original_goes_only_after_a_proven_copy(folder: Path) -> None:
    other = Path("/dev/shm") / f"edged-test-{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == folder.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    try:
        path = drop(folder, "a.png", picture())
        row = pending(path, folder)
        way = disposal(folder, after="move", move_to=other)
        assert way.dispose(row).outcome is Outcome.MOVED
        copy = other / DAY / "a.png"
        assert (copy.read_bytes(), copy.stat().st_mtime_ns) == (picture(), row.mtime_ns)
        assert list(folder.iterdir()) == []
        # A crash between copy and unlink: the original aside, the copy in place.
        aside = folder / f".edged-{ID}"
        aside.write_bytes(picture())
        os.utime(aside, ns=(0, row.mtime_ns))
        assert way.dispose(row).outcome is Outcome.MOVED
        assert [each.name for each in (other / DAY).iterdir()] == ["a.png"]
        assert list(folder.iterdir()) == []
    finally:
        for each in sorted(other.rglob("*"), reverse=True):
            each.unlink() if each.is_file() else each.rmdir()
        if other.exists():
            other.rmdir()


@pytest.mark.parametrize("left", ["half a copy", "a whole copy", "a copy under another name"])
def test_a_copy_taken_up_the_next_day_leaves_nothing_in_yesterdays_folder(folder: Path, left: str) -> None:
    other = Path("/dev/shm") / f"edged-test-next-{os.getpid()}"
    if Path("/dev/shm").stat().st_dev == folder.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    try:
        path = drop(folder, "a.png", picture())
        row = pending(path, folder)
        path.rename(folder / f".edged-{ID}")  # then the crash came
        (other / DAY).mkdir(parents=True)
        if left == "a copy under another name":
            drop(other / DAY, "a.png", picture(1))
        name = {"half a copy": f".edged-{ID}.part", "a whole copy": "a.png"}.get(left, f"a~{ID[:8]}.png")
        copy = drop(other / DAY, name, picture()[:50] if left == "half a copy" else picture())
        os.utime(copy, ns=(0, row.mtime_ns))
        way = Disposal(camera(folder, after="move", move_to=other), lambda: NOON + timedelta(days=1), lambda: None)
        done = way.dispose(row)
        assert done.outcome is Outcome.MOVED
        target = Path(done.new_path or "")
        assert target.read_bytes() == picture()
        everything = [each for each in other.rglob("*") if each.is_file()]
        assert everything == [target] or (left == "a copy under another name" and sorted(everything) == [other / DAY / "a.png", target])
        assert list(folder.iterdir()) == []
    finally:
        for each in sorted(other.rglob("*"), reverse=True):
            each.unlink() if each.is_file() else each.rmdir()
        if other.exists():
            other.rmdir()


def test_a_copy_that_fails_leaves_the_original(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/shm").stat().st_dev == folder.stat().st_dev:
        pytest.skip("/dev/shm is on the same file system")
    other = Path("/dev/shm") / f"edged-test-full-{os.getpid()}"

    def no_space(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    try:
        path = drop(folder, "a.png", picture())
        row = pending(path, folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            with pytest.raises(OSError, match="No space"):
                disposal(folder, after="move", move_to=other).dispose(row)
        assert [each.name for each in folder.iterdir()] == ["a.png"]
        assert disposal(folder, after="move", move_to=other).dispose(row).outcome is Outcome.MOVED
    finally:
        for each in sorted(other.rglob("*"), reverse=True):
            each.unlink() if each.is_file() else each.rmdir()
        if other.exists():
            other.rmdir()


def test_renaming_never_replaces_whatever_the_file_system_offers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edged.intake import renaming

    class NoRenameat2:
        def renameat2(self, *_: object) -> int:
            import ctypes

            ctypes.set_errno(22)
            return -1

    def no_links(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    for level in range(3):
        if level == 1:
            monkeypatch.setattr(renaming, "_libc", NoRenameat2())
        if level == 2:
            monkeypatch.setattr(os, "link", no_links)
        one, two = folder / f"{level}-one", folder / f"{level}-two"
        one.write_bytes(b"1")
        two.write_bytes(b"2")
        with pytest.raises(FileExistsError):
            rename_new(os.fsencode(one), os.fsencode(two))
        assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")
        two.unlink()
        rename_new(os.fsencode(one), os.fsencode(two))
        assert two.read_bytes() == b"1"
        assert not one.exists()


def test_a_sidecar_follows_its_last_image(folder: Path) -> None:
    way = disposal(folder, after="move", identity=(IdentitySource(kind="sidecar-json"),))
    one, two = drop(folder, "a.png", picture(1)), drop(folder, "a.tif", picture(2))
    (folder / "a.json").write_text("{}")
    way.dispose(pending(one, folder))
    assert (folder / "a.json").is_file()
    way.dispose(Pending(b"a.tif", two.stat().st_size, two.stat().st_mtime_ns, hashlib.sha256(picture(2)).hexdigest(), "other-id"))
    assert {each.name for each in (folder / ".done" / DAY).iterdir()} == {"a.png", "a.tif", "a.json"}


def test_quarantine_stays_below_its_cap_and_keeps_the_newest(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "q", Limits(bytes=2500))
    for number in range(5):
        (tmp_path / "a.png").write_bytes(bytes([number]) * 1000)
        assert quarantine.keep(os.fsencode(tmp_path / "a.png"), f"id{number}", lambda: None)
    assert {each.name for each in (tmp_path / "q").iterdir()} == {"id3.png", "id4.png"}
    (tmp_path / "a.png").write_bytes(bytes(3000))
    assert quarantine.keep(os.fsencode(tmp_path / "a.png"), "big", lambda: None) is None


@pytest.mark.parametrize("after", [After.MOVE, After.DELETE])
async def test_a_judged_file_leaves_the_folder_and_is_not_judged_again(folder: Path, tmp_path: Path, after: After) -> None:
    async with Station(tmp_path, [camera(folder, after=after)]).running() as station:
        for number in range(10):
            drop(folder, f"{number}.png", picture(number))
        landings = [await station.landing() for _ in range(10)]
        await asyncio.gather(*(station.judge(landing) for landing in landings))
        assert len(station.memory.disposals) == 10
        assert not list(folder.glob("*.png"))
        await station.nothing(0.4)
        assert station.memory.vanishings == []


async def test_a_recorded_image_dropped_once_more_gets_no_second_result_and_leaves_again(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="move")]).running() as station:
        path = drop(folder, "a.png", picture())
        facts = path.stat()
        await station.judge(await station.landing())
        temporary = folder / ".again"
        temporary.write_bytes(picture())
        os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        temporary.rename(path)
        again = await station.landing()
        await station.judge(again, outcome=Recording.KNOWN)
        assert not path.exists()
        assert [outcome for _, outcome, _ in station.memory.disposals] == ["moved", "moved"]


async def test_a_name_re_used_between_commit_and_disposal_is_judged(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="move")]).running() as station:
        drop(folder, "a.png", picture(1))
        first = await station.landing()
        drop(folder, "a.png", picture(2))
        await station.judge(first)
        second = await station.landing()
        assert second.size == len(picture(2))
        assert (second.path, second.mtime_ns != first.mtime_ns) == (b"a.png", True)
        await station.judge(second)
        assert [outcome for _, outcome, _ in station.memory.disposals] == ["replaced", "moved"]


async def test_disposal_is_resumed_after_a_restart_without_judging_again(folder: Path, tmp_path: Path) -> None:
    memory, path = Memory(), drop(folder, "a.png", picture())
    facts, row = path.stat(), pending(path, folder)
    memory.started.add("cam")
    memory.recorded["cam", b"a.png"] = (facts.st_size, facts.st_mtime_ns)
    memory.pending["cam"] = [(row.path, row.size, row.mtime_ns, row.sha256, row.id, "PASS", "")]
    async with Station(tmp_path, [camera(folder, after="move")], memory=memory).running() as station:
        await station.until(lambda: memory.disposals)
        assert not path.exists()
        await station.nothing(0.3)


async def test_a_truncated_image_is_copied_to_quarantine_and_neither_moved_nor_deleted(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="delete", incomplete_after_s=0.3)]).running() as station:
        (folder / "half.png").write_bytes(picture()[:500])
        landing = await station.landing()
        await station.judge(landing, VerdictKind.ERROR)
        assert (folder / "half.png").is_file()
        assert [outcome for _, outcome, _ in station.memory.disposals] == ["kept"]
        await station.until(lambda: [kind for kind, _ in station.events] == ["quarantine"])
        assert len(list(station.quarantine.iterdir())) == 1
        await station.nothing(0.3)


async def test_a_rejected_image_is_in_quarantine_before_the_original_goes(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="delete")]).running() as station:
        drop(folder, "bad.png", picture(5))
        await station.judge(await station.landing(), VerdictKind.ERROR)
        assert [each.read_bytes() for each in station.quarantine.iterdir()] == [picture(5)]
        assert not (folder / "bad.png").exists()


async def test_a_disposal_that_fails_is_told_and_the_image_stays(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    async with Station(tmp_path, [camera(folder, after="move", move_to=blocked)]).running() as station:
        drop(folder, "a.png", picture())
        await station.judge(await station.landing())
        await station.until(lambda: "cannot be moved" in station.health.items["folder:cam"][1])
        await station.nothing(0.3)
        assert [each.name for each in folder.iterdir()] == ["a.png"]


async def test_what_we_move_away_ourselves_is_never_told_as_vanished(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="move", poll_s=0.05)], capacity=8).running() as station:
        for number in range(150):
            drop(folder, f"{number}.png", picture(number % 7, 16))
        judging = [asyncio.ensure_future(station.judge(await station.landing())) for _ in range(150)]
        await asyncio.gather(*judging)
        await asyncio.sleep(0.3)
        assert station.memory.vanishings == []
        assert len(station.memory.disposals) == 150
        assert not list(folder.glob("*.png"))
        assert [kind for kind, _ in station.events] == []


async def test_a_landing_judged_after_intake_has_stopped_is_still_disposed_of(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder, after="move")]).running() as station:
        path = drop(folder, "a.png", picture())
        landing = await station.landing()
    await station.judge(landing)
    assert not path.exists()
    assert station.channel.closed


def crashed(folder: Path, name: str, data: bytes, verdict: str, reason: str) -> Memory:
    """A ledger that committed a verdict just before everything ended."""
    memory, path = Memory(), drop(folder, name, data)
    facts, row = path.stat(), pending(path, folder)
    memory.started.add("cam")
    memory.recorded["cam", row.path] = (facts.st_size, facts.st_mtime_ns)
    memory.pending["cam"] = [(row.path, row.size, row.mtime_ns, row.sha256, row.id, verdict, reason)]
    return memory


async def test_after_a_crash_a_rejected_image_is_copied_before_it_is_deleted(folder: Path, tmp_path: Path) -> None:
    memory = crashed(folder, "bad.png", picture(), "ERROR", "decode")
    async with Station(tmp_path, [camera(folder, after="delete")], memory=memory).running() as station:
        await station.until(lambda: memory.disposals)
        assert [each.read_bytes() for each in station.quarantine.iterdir()] == [picture()]
        assert list(folder.iterdir()) == []


async def test_after_a_crash_a_rejected_image_without_a_copy_is_not_deleted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "quarantine").write_text("a file where the folder should be")
    memory = crashed(folder, "bad.png", picture(), "ERROR", "decode")
    async with Station(tmp_path, [camera(folder, after="delete")], memory=memory).running() as station:
        await station.until(lambda: memory.disposals == [(b"bad.png", "kept", None)])
        assert (folder / "bad.png").read_bytes() == picture()


@pytest.mark.parametrize("after", ["move", "delete"])
async def test_after_a_crash_a_truncated_image_still_stays(folder: Path, tmp_path: Path, after: str) -> None:
    memory = crashed(folder, "half.png", picture()[:900], "ERROR", "truncated")
    async with Station(tmp_path, [camera(folder, after=after)], memory=memory).running() as station:
        await station.until(lambda: memory.disposals == [(b"half.png", "kept", None)])
        assert (folder / "half.png").is_file()
        await station.nothing(0.2)


async def test_a_camera_that_keeps_leaves_nothing_pending_for_a_later_delete(folder: Path, tmp_path: Path) -> None:
    memory = Memory()
    async with Station(tmp_path, [camera(folder)], memory=memory).running() as station:
        drop(folder, "a.png", picture())
        await station.judge(await station.landing())
        assert memory.pending["cam"] == []
    async with Station(tmp_path, [camera(folder, after="delete")], memory=memory).running() as station:
        await station.nothing(0.4)
        assert (folder / "a.png").is_file()


async def test_hundreds_of_pending_files_are_disposed_of_in_rounds(folder: Path, tmp_path: Path) -> None:
    memory, rows = Memory(), []
    for number in range(600):
        path = drop(folder, f"{number}.png", picture(number % 5, 16))
        row = pending(path, folder)
        memory.recorded["cam", row.path] = (row.size, row.mtime_ns)
        rows.append((row.path, row.size, row.mtime_ns, row.sha256, f"{ID}{number:03}", "PASS", ""))
    memory.pending["cam"] = rows
    async with Station(tmp_path, [camera(folder, after="move")], memory=memory).running() as station:
        await station.until(lambda: len(memory.disposals) == 600, 20)
        assert not list(folder.glob("*.png"))
        await station.nothing(0.2)


def test_a_name_reserved_before_a_crash_is_not_taken_for_an_image(folder: Path) -> None:
    path = drop(folder, "a.png", picture())
    row = pending(path, folder)
    (folder / f".edged-{ID}").touch()
    assert disposal(folder, after="move").dispose(row).outcome is Outcome.MOVED
    assert (folder / ".done" / DAY / "a.png").read_bytes() == picture()
    assert [each.name for each in folder.iterdir()] == [".done"]


async def test_the_events_of_the_last_images_go_out_after_intake_has_stopped(folder: Path, tmp_path: Path) -> None:
    async with Station(tmp_path, [camera(folder)]).running() as station:
        drop(folder, "bad.png", picture(1))
        drop(folder, "gone.png", picture(2))
        landings = {landing.path: landing for landing in [await station.landing(), await station.landing()]}
    await station.judge(landings[b"bad.png"], VerdictKind.ERROR)
    await station.intake.vanished(landings[b"gone.png"])
    assert [kind for kind, _ in station.events] == ["quarantine", "vanished"]
