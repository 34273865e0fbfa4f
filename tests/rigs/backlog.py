"""A ledger with many undelivered verdicts, and an MES that writes down only what came: topic, id and whether it was replayed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edged.ledger.rows import checksum
from rigs.mosquitto import PROGRAMS, Broker
from rigs.processes import wait_until, with_parent

PIECE = 50_000


def multiply(ledger: Path, rows: int) -> None:
    """The one recorded verdict in this (closed) ledger becomes so many: each with a file, a number, an id and a body of its own."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        sql = "SELECT m.id, m.epoch, t.name FROM message m JOIN topic t ON t.topic = m.topic WHERE m.kind = 'result'"
        id_, epoch, topic = connection.execute(sql).fetchone()
        connection.create_function("id_", 1, lambda n: n.to_bytes(16, "big"), deterministic=True)
        check = lambda n, id_, properties, body: checksum("result", epoch, n, id_, topic, properties, body)  # noqa: E731
        connection.create_function("check_", 4, check, deterministic=True)
        new = {
            "message": "1000000 + n",
            "landing": "1000000 + n",
            "sequence": "n",
            "key": "abs(random())",
            "place": "abs(random())",
            "base": "abs(random())",
            "content": "abs(random())",
            "path": "CAST(printf('%09d.png', n) AS BLOB)",
            "name": "printf('%09d.png', n)",
            "sha256": "randomblob(32)",
            "properties": f"replace(properties, '{id_}', {_id('n')})",
            "body": f"CAST(replace(replace(CAST(body AS TEXT), '{id_}', {_id('n')}), '\"sequence\":\"000000000001\"', "
            'printf(\'"sequence":"%012d"\', n)) AS BLOB)',
        }
        new["checksum"] = f"check_(n, {_id('n')}, {new['properties']}, {new['body']})"
        ids = {"message": _id("n"), "result": "id_(n)", "landing": "id_(n)"}
        templates = {}
        for table in ("landing", "message", "result", "outbox"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            here = new if table == "message" else new | {"checksum": "NULL"}  # a landing's: as by an edged that made none
            values = [ids[table] if column == "id" else here.get(column, column) for column in columns]
            where = "JOIN message USING (message) WHERE kind = 'result'" if table == "outbox" else ""
            where = "WHERE kind = 'result'" if table == "message" else where
            named = ", ".join(f"{table}.{column} AS {column}" for column in columns)
            connection.execute(f"CREATE TEMP TABLE one_{table} AS SELECT {named} FROM {table} {where}")
            templates[table] = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM one_{table}, numbers"
        # Indexes of random keys are built in one go, else millions of rows take an hour.
        named = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name IN ('landing', 'result') AND sql IS NOT NULL"
        indexes = connection.execute(named).fetchall() if rows > PIECE else []
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for first in range(2, rows + 1, PIECE):
            connection.execute("BEGIN")
            connection.execute(
                "CREATE TEMP TABLE numbers AS WITH RECURSIVE c(n) AS (VALUES (?) UNION ALL SELECT n + 1 FROM c LIMIT ?) SELECT n FROM c",
                (first, min(PIECE, rows + 1 - first)),
            )
            for statement in templates.values():
                connection.execute(statement)
            connection.execute("DROP TABLE numbers")
            connection.execute("COMMIT")
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("UPDATE sequence SET last = ? WHERE kind = 'result'", (rows,))


def _id(number: str) -> str:
    return f"printf('00000000-0000-8000-8000-%012d', {number})"


@dataclass(frozen=True, slots=True)
class Came:
    topic: str
    id: str
    replayed: bool


class Book:
    """`lines`: how many messages came. `came()`: all of them, in order."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self.lines = 0

    def look(self) -> int:
        with self._file.open("rb") as file:
            file.seek(self._read)
            while piece := file.read(1 << 20):
                self._read += len(piece)
                self.lines += piece.count(b"\n")
        return self.lines

    def came(self) -> list[Came]:
        found = []
        for line in self._file.read_text().splitlines():
            topic, _, properties = line.partition(" ")
            said = dict(each.split(":", 1) for each in properties.split(" ") if ":" in each)
            found.append(Came(topic, said["id"], said["replayed"] == "true"))
        return found


@contextmanager
def book(broker: Broker, topic: str, file: Path) -> Iterator[Book]:
    """A process of its own, so that its memory is not ours."""
    program = shutil.which("mosquitto_sub", path=PROGRAMS)
    if program is None:
        pytest.skip("mosquitto_sub is not on this machine")
    command = [program, "-V", "mqttv5", "-h", broker.options.host, "-p", str(broker.port), "-q", "1", "-i", "book", "-c", "-t", topic]
    with file.open("wb") as out:
        process = subprocess.Popen(with_parent([*command, "-F", "%t %P"]), stdout=out, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: "book 1 " in broker.log.read_text(errors="replace"), 10, "the book is open")
        yield Book(file)
    finally:
        process.terminate()
        process.wait(10)


def resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
