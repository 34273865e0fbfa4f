"""Where is my image? Asked of the real daemon, over a ledger of many landings, for everything that can have become of a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from edged.ledger.connection import open_writer
from edged.ledger.identity import content_hash, landing_hash, name_hash, place_hash
from edged.ledger.schema import DELIVERED, DUE, HELD, PARKED
from rigs.daemon import ONE_CAMERA, Daemon
from rigs.processes import free_port, wait_until

BASE = "acme/fab2/litho/INSP07/edged/v1"
TOML = ONE_CAMERA + "recursive = true\npoll_s = 0.2\n"
SPECIAL = {1: (PARKED, "Quota exceeded"), 2: (HELD, None), 3: (DUE, None)}
EACH_LOT = 2000
COLUMNS = {
    "landing": "landing, key, place, base, content, camera, path, size, mtime_ns, sha256, how, id, pages, verdict, reason, detected, "
    "recorded, age, gone, gone_by, disposal, moved_to",
    "message": "message, kind, epoch, sequence, id, topic, created, age, properties, body",
    "result": "message, id, landing, page, judgement, sequence, camera, name, verdict, reason, lot, wafer, recipe, decided",
    "outbox": "message, sink, state, topic, attempts, at, reason",
}


def fill(ledger: Path, count: int) -> None:
    """`count` judged landings, in lots of 2,000; the first thousand of them have lost their results to retention."""
    with closing(open_writer(ledger)) as connection:
        for pragma in ("PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000"):
            connection.execute(pragma)
        (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        connection.execute("BEGIN")
        for number, verdict in enumerate(("pass", "fail"), 1):
            connection.execute("INSERT INTO topic (topic, name) VALUES (?, ?)", (number, f"{BASE}/result/cam1/{verdict}"))
        rows = {"landing": landings(count), "message": messages(count, epoch), "result": results(count), "outbox": outbox(count)}
        for table, columns in COLUMNS.items():
            marks = ", ".join("?" for _ in columns.split(","))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows[table])
        connection.execute("UPDATE sequence SET last = ? WHERE kind = 'result'", (count,))
        connection.execute("COMMIT")


def path_of(number: int) -> bytes:
    return b"lot%d/w%07d.png" % (number // EACH_LOT, number)


def id_of(number: int) -> bytes:
    return hashlib.sha256(b"id%d" % number).digest()[:16]


def bad(number: int) -> bool:
    return number % 20 == 0


def landings(count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(1, count + 1):
        path, sha, at = path_of(number), hashlib.sha256(b"%d" % number).digest(), 1.7e9 + number
        key, place = landing_hash("cam1", path, 100, number), place_hash("cam1", path)
        moved = number % 3 == 0
        yield (
            *(number, key, place, name_hash(path), content_hash(sha), "cam1", path, 100, number, sha, "judged", id_of(number), 1),
            *(("FAIL", "class:particle>=0.80") if bad(number) else ("PASS", "no defect")),
            *(at, at + 1, 0, at + 2 if moved else None, "us" if moved else None, "moved" if moved else "kept"),
            f"/done/w{number:07d}.png" if moved else None,
        )


def messages(count: int, epoch: str) -> Iterator[tuple[Any, ...]]:
    for number in range(1001, count + 1):
        id_ = str(UUID(bytes=id_of(number)))
        data = {"verdict": "FAIL" if bad(number) else "PASS", "judgement": 0, "image": {"name": path_of(number).decode(), "page": 0}}
        data |= {"timing_ms": {"settle": 310.0, "decode": 3.1, "infer": 6.4, "total": 716.0}, "defects": [{"class": "particle"}] * 2}
        body = json.dumps({"id": id_, "kind": "result", "epoch": epoch, "sequence": f"{number:012d}", "data": data}).encode()
        yield number, "result", epoch, number, id_, 1 + bad(number), 1.7e9 + number, 0, "{}", body


def results(count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(1001, count + 1):
        verdict = ("FAIL", "class:particle>=0.80") if bad(number) else ("PASS", "no defect")
        lot = f"L{number // EACH_LOT}"
        yield (number, id_of(number), number, 0, 0, number, "cam1", path_of(number).decode(), *verdict, lot, "W1", "maps", 1.7e9 + number)


def outbox(count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(1001, count + 1):
        state, reason = SPECIAL.get(count - number, (DELIVERED, None))
        yield number, "mqtt", state, 1 + bad(number), 0, 1.7e9 + number, reason


class Asking:
    """Questions to a daemon, and how long each took (s)."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self.took = daemon, dict[str, float]()

    def trace(self, **wanted: str) -> list[dict[str, Any]]:
        began = time.monotonic()
        answer = self._daemon.get("/api/v1/trace?" + urllib.parse.urlencode(wanted))
        self.took[next(iter(wanted.values()))] = time.monotonic() - began
        assert answer is not None
        found: list[dict[str, Any]] = answer["entries"]
        return found

    def whats(self, name: str) -> set[str]:
        return {entry["what"] for entry in self.trace(name=name)}

    def reasons(self, name: str) -> str:
        entries = self.trace(name=name)
        return " | ".join(str(entry[key]) for entry in entries for key in ("state", "reason", "note", "held") if entry.get(key))


@pytest.mark.parametrize(
    "count",
    [pytest.param(20_000, marks=pytest.mark.timeout(120)), pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_every_file_is_traced_within_a_second_with_the_reason_where_it_has_no_result(
    start_daemon: Callable[..., Daemon], tmp_path: Path, count: int
) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    daemon = start_daemon(TOML.format(folder=folder, triton=free_port(), mqtt=free_port()), run=False)
    daemon.state.mkdir(parents=True)
    began = time.monotonic()
    fill(daemon.state / "ledger.db", count)
    filled_s = time.monotonic() - began
    images = Path(__file__).parents[1] / "data/wafer_maps/images"
    shutil.copyfile(next(iter(sorted(images.glob("*.png")))), folder / "waiting.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "link.png").symlink_to(folder / "waiting.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "~draft.png").write_text("excluded")
    (folder / "going.png").write_bytes(b"\x89PNG half of an image")
    began = time.monotonic()
    daemon.start(ready=False)
    started_s = time.monotonic() - began
    asking = Asking(daemon)
    trace, whats, reasons = asking.trace, asking.whats, asking.reasons
    wait_until(lambda: "waiting" in whats("going.png") and "waiting" in whats("waiting.png"), 30, "the folder is listed")
    (folder / "going.png").unlink()

    middle = count // 2 + 1
    assert {"seen", "settled", "decoded", "inferred", "judged", "recorded", "delivered"} <= whats(f"w{middle:07d}.png")
    assert {"judged", "delivered"} <= whats(path_of(middle).decode())
    delivered = next(entry for entry in trace(name=f"w{middle:07d}.png") if entry["what"] == "delivered")
    assert delivered["time"].endswith("Z")
    assert trace(name=f"lot9999/w{middle:07d}.png") == []
    moved = next(number for number in range(middle, count) if number % 3 == 0)
    assert any(entry["what"] == "moved" and entry["to"] for entry in trace(name=f"w{moved:07d}.png"))
    assert "older than the retention time" in reasons("w0000007.png")
    assert any(entry.get("verdict") for entry in trace(name="w0000007.png")), "the verdict itself is kept"
    parked, held, due = (f"w{count - behind:07d}.png" for behind in SPECIAL)
    assert "Quota exceeded" in reasons(parked)
    assert "nobody subscribes" in reasons(held)
    assert "waits for the broker" in reasons(due)
    assert "wafer_pattern" in reasons("waiting.png"), "which model its recipe waits for"
    assert "FIFO" in reasons("fifo.png")
    assert "symbolic link" in reasons("link.png")
    assert "does not match include (*.jpg" in reasons("notes.txt")
    assert "matches exclude (~*)" in reasons("~draft.png")
    assert trace(name="never.png") == []
    wait_until(lambda: "gone before it was judged" in reasons("going.png"), 20, "a file that vanished is told")
    lot = trace(lot=f"L{middle // EACH_LOT}")
    assert len(lot) == 1000
    assert {entry["lot_id"] for entry in lot} == {f"L{middle // EACH_LOT}"}
    assert trace(lot="L-unknown") == []

    began = time.monotonic()
    said = daemon.run("trace", f"w{middle:07d}.png")
    process_s = time.monotonic() - began
    assert "delivered" in said.stdout
    assert daemon.run("trace", "never.png", check=False).returncode == 1
    assert "W1" in daemon.run("trace", "--lot", f"L{middle // EACH_LOT}").stdout

    daemon.kill()  # what nobody has in memory any more is still told
    daemon.start(ready=False)
    assert "gone before it was judged" in reasons("going.png")
    told = ", ".join(f"{name} {s:.3f}" for name, s in sorted(asking.took.items(), key=lambda each: -each[1]))
    print(f"{count} landings: filled in {filled_s:.0f} s, started in {started_s:.1f} s; edged trace {process_s:.2f} s; HTTP, s: {told}")
    assert max(asking.took.values()) < 1.0, told
    assert process_s < 20, "mostly the start of Python, on a machine that may be busy"


def test_the_ledgers_tables_are_those_that_this_test_fills(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db", 1100)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT base) FROM landing").fetchone() == (1100, 1100)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
