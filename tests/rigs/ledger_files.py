"""Ledger files as an older edged left them, and damaged ones."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from edged.ledger.migrations import first_tables

PAGE = 4096


def aged(file: Path) -> None:
    """The schema of the first release, with the rows that it would have: what later migrations added is taken away."""
    first = sqlite3.connect(":memory:")
    first_tables(first)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA foreign_keys = OFF")
    kept = {name for (name,) in first.execute("SELECT name FROM sqlite_master")}
    added = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE '%sqlite%' ORDER BY type").fetchall()
    with connection:
        for kind, name in added:
            if name not in kept and connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
                connection.execute(f"DROP {kind} {name}")
        for table in kept & {name for kind, name in added if kind == "table"}:
            columns = {name for _, name, *_ in first.execute(f"PRAGMA table_info({table})")}
            for _, name, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if name not in columns:
                    connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        for name, sql in first.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"):
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
                connection.execute(sql)  # a later migration took it away
        connection.execute("DELETE FROM _sqlite_migrations WHERE name <> 'first_tables'")
    first.close()
    connection.close()


def pages_with(file: Path, text: bytes) -> list[int]:
    """Numbers of the leaf pages of tables that hold this text; the first page is 1."""
    content = file.read_bytes()
    return [at // PAGE + 1 for at in range(0, len(content), PAGE) if content[at] == 0x0D and text in content[at : at + PAGE]]


def overwrite(file: Path, pages: Iterable[int], seed: int) -> None:
    """With noise."""
    rng = random.Random(seed)
    with file.open("r+b") as opened:
        for number in pages:
            opened.seek((number - 1) * PAGE)
            opened.write(rng.randbytes(PAGE))
