"""`edged db`: the ledger's file read through, copied while it is written, and made small."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from contract.ledger_pages import opened, page
from edged.errors import Unavailable
from edged.ledger import backup, inspect, vacuum
from edged.ledger.accounts import damaged_landings
from edged.ledger.copies import BackupRefused
from edged.nouns import Recording, VerdictKind
from rigs.daemon import ONE_CAMERA, Daemon
from rigs.processes import free_port

IMAGES = 60


async def filled(folder: Path, images: int = IMAGES) -> None:
    async with opened(folder) as ledger:
        verdicts = [VerdictKind.PASS, VerdictKind.FAIL]
        await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"%d" % n, verdict=verdicts[n % 2])]) for n in range(images)))
        await ledger.announce("disk", {"n": 1})
        rows = await ledger.outbox.due("backlog", 1000, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows[: images // 2]])


def changed(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_a_whole_ledger_has_no_problem_also_after_pruning_and_a_rebuild(tmp_path: Path) -> None:
    await filled(tmp_path)
    found = inspect(tmp_path)
    assert found.problems == ()
    assert found.counts == {"results": IMAGES, "wafers": 0, "events": 1, "undelivered": IMAGES // 2 + 1}
    async with opened(tmp_path, retain_rows=10, tick_s=0.3):
        deadline = time.monotonic() + 10
        while inspect(tmp_path).counts["results"] > IMAGES // 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert inspect(tmp_path).problems == ()
    changed(tmp_path, "UPDATE message SET body = X'00' WHERE sequence IN (40, 41, 55) AND kind = 'result'")
    assert inspect(tmp_path, rebuild=True).distrusted
    with structlog.testing.capture_logs() as logs:
        async with opened(tmp_path):
            pass
    assert inspect(tmp_path).problems == ()
    (told,) = [entry for entry in logs if entry["event"] == "ledger.set_aside"]
    assert told["lost"]["result"]["ranges"] == [[40, 41], [55, 55]]
    assert told["lost_messages"] == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "UPDATE message SET body = replace(CAST(body AS TEXT), 'PASS', 'FAIL') WHERE message = 1",
            "1 message is not what was written (its checksum differs) (row 1).",
        ),
        ("UPDATE result SET verdict = 'PASS' WHERE sequence IN (2, 4)", "2 results contradict their messages (first: row "),
        ("UPDATE landing SET size = 99 WHERE landing = 3", "1 landing is not what was written (its checksum differs) (row 3)."),
        ("UPDATE landing SET how = 'judgmd' WHERE landing = 3", "1 landing is not what was written (its checksum differs) (row 3)."),
        ("UPDATE landing SET pruned = 1 WHERE landing IN (3, 4)", "2 landings are not what was written (first: row 3)."),
        ("UPDATE landing SET checksum = NULL, how = 'judgmd' WHERE landing = 3", "1 landing is not what was written"),
        ("DELETE FROM landing WHERE landing = 5", "1 row of result names a landing that is not there (row "),
        ("DELETE FROM result WHERE sequence = 7", "1 message has lost its result (row "),
        ("DELETE FROM outbox WHERE message = 9", "1 message is in no outbox (row 9)."),
        ("UPDATE outbox SET state = 7 WHERE message = 9", "1 row of the outbox is not valid (row 9)."),
        ("UPDATE sequence SET last = 63 WHERE kind = 'result'", "3 numbers are missing of result in epoch"),
        ("UPDATE sequence SET last = 50 WHERE kind = 'result'", "Its newest rows are missing"),
        ("UPDATE meta SET value = 'ffff' WHERE key = 'epoch'", "It is not the file that was used last"),
    ],
)
async def test_each_damage_is_told_in_a_sentence(tmp_path: Path, damage: str, said: str) -> None:
    await filled(tmp_path)
    changed(tmp_path, damage)
    problems = inspect(tmp_path).problems
    assert any(problem.startswith(said) for problem in problems), problems
    assert all("\n" not in problem and problem.endswith(".") for problem in problems)


async def test_a_change_of_any_column_of_a_landing_is_told(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(landing)") if name != "landing"]
        unseen = set()
        for column in columns:
            connection.execute(f"UPDATE landing SET {column} = 7777 WHERE landing = 2")
            if list(damaged_landings(connection)) != [2]:
                unseen.add(column)
            connection.rollback()
    assert not unseen


async def test_missing_messages_are_missing_numbers(tmp_path: Path) -> None:
    await filled(tmp_path)
    tables = ("result", "outbox", "message")
    changed(tmp_path, *(f"DELETE FROM {table} WHERE message IN (3, 4, 9)" for table in tables))
    (problem,) = inspect(tmp_path).problems
    assert problem.startswith("3 numbers are missing of result in epoch")
    assert problem.endswith(": 3-4, 9.")


async def test_damaged_pages_and_a_file_that_is_none_are_told(tmp_path: Path) -> None:
    await filled(tmp_path)
    file = tmp_path / "ledger.db"
    whole = file.read_bytes()
    file.write_bytes(whole[: 4096 * 3] + b"\xaa" * 4096 * 6 + whole[4096 * 9 :])
    problems = inspect(tmp_path).problems
    assert problems
    assert all(problem.startswith(("A page is damaged", "The file does not read")) for problem in problems)
    file.write_bytes(b"no database at all " * 500)
    assert [problem.partition(":")[0] for problem in inspect(tmp_path).problems] == ["The file does not read"]
    file.unlink()
    with pytest.raises(Unavailable, match="there is none"):
        inspect(tmp_path)


async def test_a_backup_under_load_is_a_whole_ledger_of_one_moment(tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    async with opened(state) as ledger:
        recorded = 0

        async def stream(k: int) -> None:
            nonlocal recorded
            for number in range(150):
                await ledger.record([page(b"%d-%d.png" % (k, number), b"%d %d" % (k, number))])
                recorded += 1

        streams = [asyncio.create_task(stream(k)) for k in range(4)]
        while recorded < 100:
            await asyncio.sleep(0.01)
        before = recorded
        assert await asyncio.to_thread(backup, state, copy) == copy.stat().st_size
        assert before < recorded < 600, "it was not copied under load"
        await asyncio.gather(*streams)
    assert [path.name for path in copy.parent.iterdir()] == ["ledger.db"]
    found = inspect(copy.parent)
    assert found.problems == ()
    assert before <= found.counts["results"] < 600
    with pytest.raises(BackupRefused):
        backup(state, copy)
    assert inspect(copy.parent).counts == found.counts
    backup(state, copy, force=True)
    assert inspect(copy.parent).counts["results"] == 600


async def test_a_backup_put_back_begins_a_new_epoch_and_gives_no_number_twice(tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy.db"
    await filled(state)
    backup(state, copy)
    async with opened(state) as ledger:
        for number in range(5):
            await ledger.record([page(b"later%d.png" % number, b"later %d" % number)])
        epoch = ledger.epoch
    copy.replace(state / "ledger.db")
    with structlog.testing.capture_logs() as logs:
        async with opened(state) as ledger:
            assert ledger.epoch != epoch
            assert (await ledger.record([page(b"0.png", b"0")])).outcome is Recording.KNOWN
            assert (await ledger.record([page(b"later0.png", b"later 0")])).outcome is Recording.RECORDED
    (told,) = [entry for entry in logs if entry["event"] == "ledger.set_aside"]
    assert told["lost"] == {"result": {"epoch": epoch, "ranges": [[IMAGES + 1, IMAGES + 5]]}}
    assert told["lost_messages"] == 5


async def test_a_vacuum_gives_back_what_pruning_left_free_and_changes_nothing_else(tmp_path: Path) -> None:
    await filled(tmp_path, 600)
    changed(tmp_path, *(f"DELETE FROM {table} WHERE message < 300" for table in ("result", "outbox", "message")))
    changed(tmp_path, "INSERT INTO absent SELECT 'result', value, 1, 299, 'pruned' FROM meta WHERE key = 'epoch'")
    counts = inspect(tmp_path).counts
    before, after = vacuum(tmp_path)
    assert after < before * 0.8
    assert (tmp_path / "ledger.db").stat().st_size == after
    assert inspect(tmp_path).problems == ()
    assert inspect(tmp_path).counts == counts


async def test_a_vacuum_is_refused_while_the_daemon_has_the_ledger(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(Unavailable, match="another edged") as refused:
            vacuum(tmp_path)
        assert refused.value.hint.startswith("Stop the daemon first")


@pytest.mark.timeout(240)  # a dozen starts of Python
def test_the_commands_beside_a_running_daemon(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    daemon = start_daemon(ONE_CAMERA.format(triton=free_port(), mqtt=free_port(), folder=tmp_path / "drop"), run=False)
    daemon.start(ready=False)
    assert daemon.run("db", "check").stdout.startswith(f"The ledger {daemon.state}/ledger.db is whole: 0 results")
    checked = json.loads(daemon.run("db", "check", "--json").stdout)
    assert checked["ok"] is True
    assert checked["problems"] == []
    copy = tmp_path / "copy.db"
    copied: dict[str, Any] = json.loads(daemon.run("db", "--json", "backup", str(copy)).stdout)
    assert (copied["file"], copied["bytes"]) == (str(copy), copy.stat().st_size)
    again = daemon.run("db", "backup", str(copy), check=False)
    assert again.returncode == 1
    assert "is there already, and was left as it is. Choose another name" in again.stderr
    assert daemon.run("db", "backup", str(copy), "--force").stdout.startswith("The ledger is copied to")
    refused = daemon.run("db", "vacuum", check=False)
    assert refused.returncode == 1
    assert f"another edged (process {daemon.pid}) uses it. Stop the daemon first" in refused.stderr
    assert daemon.stop() == 0
    assert "bytes and has" in daemon.run("db", "vacuum").stdout
    changed(daemon.state, "UPDATE sequence SET last = 3 WHERE kind = 'result'")
    wrong = daemon.run("db", "check", check=False)
    assert wrong.returncode == 1
    assert "3 numbers are missing of result" in wrong.stdout
    assert "edged db check --rebuild" in wrong.stdout
    assert json.loads(daemon.run("db", "check", "--rebuild", "--json", check=False).stdout)["next_start_rebuilds"] is True
    daemon.start(ready=False)
    assert daemon.run("db", "check").returncode == 0
    assert len(list((daemon.state / "set-aside").iterdir())) == 1
