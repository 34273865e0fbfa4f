"""The ledger when the machine is unkind: killed, out of space, damaged, used twice."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.ledger_pages import HeardBoard, opened, page
from edged.errors import ConfigError, LedgerNewer, Unavailable
from edged.ledger.connection import open_reader
from edged.ledger.place import prepare
from edged.nouns import HealthStatus, Recorded, Recording

ROOT = Path(__file__).parents[2]
RECORDER = """
import asyncio, sys
from pathlib import Path
from contract.ledger_pages import opened, page

async def main(folder, first):
    async with opened(folder) as ledger:
        print("ready", flush=True)
        async def stream(k):
            number = first + k
            while True:
                recorded = await ledger.record([page(b"%d.png" % number, b"content %d" % number)])
                sys.stdout.write(f"{number} {recorded.ids[0]}\\n")
                sys.stdout.flush()
                number += 8
        await asyncio.gather(*(stream(k) for k in range(8)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def killed_while_recording(folder: Path, first: int, after_s: float) -> dict[int, str]:
    """What the process said is recorded, before SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", RECORDER, str(folder), str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read()
    process.wait()
    process.stdout.close()
    whole = said[: said.rfind("\n") + 1].splitlines()
    return {int(number): id_ for number, id_ in (line.split() for line in whole)}


async def test_what_a_killed_process_said_is_recorded_is_there_and_the_numbers_have_no_hole(tmp_path: Path) -> None:
    rng, said = random.Random(1), dict[int, str]()
    for turn in range(4):
        said |= await asyncio.to_thread(killed_while_recording, tmp_path, 1_000_000 * turn, rng.uniform(0.05, 0.3))
    assert len(said) > 50
    async with opened(tmp_path) as ledger:
        rows = await ledger.outbox.due("backlog", 1_000_000, 0, 2**62)
        assert set(said.values()) <= {row.id for row in rows}
        assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
        assert len({row.id for row in rows}) == len(rows)
        number, id_ = next(iter(said.items()))
        again = await ledger.record([page(b"%d.png" % number, b"content %d" % number)])
        assert (again.outcome, again.ids) == (Recording.KNOWN, (id_,))
    connection = open_reader(tmp_path / "ledger.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_an_epoch_of_digits_stays_the_text_that_it_is(tmp_path: Path) -> None:
    """SQLite takes text for a number where a column allows it: 12e456 would be infinite."""
    async with opened(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "ledger.db")
    with connection:
        connection.execute("UPDATE meta SET value = '12e456789012' WHERE key = 'epoch'")
    connection.close()
    (tmp_path / "ledger.mark").unlink()  # it would say that this is another ledger's file
    async with opened(tmp_path) as ledger:
        await ledger.record([page()])
        (row,) = await ledger.outbox.due("fresh", 1, 0, 0)
        assert (ledger.epoch, row.epoch) == ("12e456789012", "12e456789012")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_nobody_waits_for_ever_when_the_writer_ends_by_a_mistake_of_ours(tmp_path: Path) -> None:
    class Unheard(BaseException):
        pass

    def mistake(connection: sqlite3.Connection) -> None:
        raise Unheard

    async with opened(tmp_path) as ledger:
        answers = await asyncio.gather(
            ledger._writer.submit(mistake), *(ledger.record([page(b"%d.png" % n, b"%d" % n)]) for n in range(3)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [RuntimeError] * 4
        with pytest.raises(RuntimeError, match="writer has ended"):
            await ledger.record([page()])
        with pytest.raises(RuntimeError, match="writer has ended"):
            await asyncio.wait_for(ledger.run(asyncio.Event()), 5)


class Peculiar(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("mistake", [OSError(5, "no such thing"), struct.error("short"), MemoryError(), Peculiar("odd"), OverflowError()])
async def test_an_exception_of_one_job_is_its_own_whatever_it_is(tmp_path: Path, mistake: Exception) -> None:
    def job(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE sequence SET last = 77")
        raise mistake

    board = HeardBoard()
    async with opened(tmp_path, board) as ledger:
        answers = await asyncio.gather(
            *(ledger.record([page(b"%d.png" % n, b"%d" % n)]) for n in range(3)),
            ledger._writer.submit(job),
            *(ledger.record([page(b"%d.png" % n, b"%d" % n)]) for n in range(3, 6)),
            return_exceptions=True,
        )
        assert answers.pop(3) is mistake
        assert all(isinstance(answer, Recorded) for answer in answers)
        assert [row.sequence for row in await ledger.outbox.due("backlog", 100, 0, 2**62)] == [1, 2, 3, 4, 5, 6]
        assert board.status("ledger") is HealthStatus.OK


async def test_a_second_daemon_on_the_same_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(Unavailable, match=rf"another edged \(process {os.getpid()}\) uses it") as refused:
            async with opened(tmp_path):
                pass
    assert "\n" not in str(refused.value)
    assert refused.value.hint
    async with opened(tmp_path):
        pass


async def test_a_ledger_written_by_a_newer_edged_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "ledger.db")
    with connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('edged', 'wafers_in_colour', '2031-01-01')"
        )
    connection.close()
    with pytest.raises(LedgerNewer, match=r"a newer edged has changed it \(wafers_in_colour\)"):
        async with opened(tmp_path):
            pass


def test_a_state_directory_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="state directory"):
        prepare(tmp_path / "file" / "state")


async def test_nothing_is_recorded_below_the_free_space_that_must_stay(tmp_path: Path) -> None:
    board = HeardBoard()
    async with opened(tmp_path, board, min_free_bytes=2**60) as ledger:
        with pytest.raises(Unavailable, match="nothing is judged below"):
            await ledger.record([page()])
        status, cause, hint = board.last["disk"]
        assert status is HealthStatus.DOWN
        assert "MB are free" in cause
        assert hint
        await ledger.announce("disk", {"free": 1})  # what the plant must know is still written


async def test_a_file_that_may_not_grow_refuses_everybody_and_recovers_by_itself(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel refuse real writes; everybody may set it for himself."""
    board = HeardBoard()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with opened(tmp_path, board, tick_s=0.05) as ledger:
        await ledger.record([page(b"a.png", b"a")])
        size = (tmp_path / "ledger.db-wal").stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            answers = await asyncio.gather(
                *(ledger.record([page(b"%d.png" % number, b"%d" % number)]) for number in range(5)), return_exceptions=True
            )
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert board.status("ledger") is HealthStatus.DOWN
            assert board.last["ledger"][2]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        deadline = time.monotonic() + 5
        while board.status("ledger") is not HealthStatus.OK:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        again = [await ledger.record([page(b"%d.png" % number, b"%d" % number)]) for number in range(5)]
        assert len({recorded.ids for recorded in again}) == 5
        rows = await ledger.outbox.due("backlog", 100, 0, 2**62)
        assert [row.sequence for row in rows] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_holds_images_and_is_got_over_without_a_restart(small_disk: Path) -> None:
    board = HeardBoard()
    async with opened(small_disk, board, tick_s=0.05) as ledger:
        others = small_disk / "others"
        recorded = 0
        others.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
        refusal = None
        while refusal is None and recorded < 1000:
            try:
                await ledger.record([page(b"%d.png" % recorded, b"%d" % recorded)])
                recorded += 1
            except Unavailable as error:
                refusal = error
        assert "disk is full" in str(refusal)
        assert 0 < recorded < 1000
        assert not (small_disk / "ballast").exists()
        rows = await ledger.outbox.due("backlog", 2000, 0, 2**62)
        assert len(rows) == recorded  # reading, and so the broker's drain, goes on
        # The ballast's room lets deliveries and events be written, and nothing else.
        await asyncio.wait_for(ledger.outbox.delivered([row.row for row in rows]), 5)
        await ledger.announce("disk", {"state": "full"})
        with pytest.raises(Unavailable, match="is full"):
            await ledger.record([page(b"not-yet.png", b"not yet")])
        assert await recovered(board)
        assert board.status("disk") is HealthStatus.DOWN
        others.unlink()
        assert await recovered(board, "disk")
        assert (small_disk / "ballast").exists()
        await ledger.record([page(b"%d.png" % recorded, b"%d" % recorded)])
        rows = await ledger.outbox.due("backlog", 2000, 0, 2**62)
        assert [row.sequence for row in rows if row.kind == "result"] == [recorded + 1]


async def recovered(board: HeardBoard, item: str = "ledger") -> bool:
    for _ in range(100):
        if board.status(item) is HealthStatus.OK:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_network_file_system_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel here mounts no share: what it would say is put in place of its mount table."""
    table = f"22 1 0:50 / {tmp_path} rw - cifs //nas/share rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: table)
    with pytest.raises(ConfigError, match="network file system \\(cifs\\)"):
        prepare(tmp_path / "state")
