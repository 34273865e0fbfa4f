"""`edged db check`: whether the file is whole, and whether its rows keep the ledger's promises. It only reads, beside a running daemon too.

Invariants
- Everything is looked at in one read transaction: what the daemon writes meanwhile is not half seen.
- A problem is one sentence: what is wrong, how often, and where it is seen first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edged.errors import LedgerCorrupt, Unavailable
from edged.ledger.accounts import damaged_landings, damaged_messages, gaps, numbers_there
from edged.ledger.connection import DAMAGE, FILE, open_reader, translated
from edged.ledger.mark import Mark, Reached
from edged.ledger.migrations import ALL, applied, refuse_newer
from edged.ledger.rebuild import distrust, suspect
from edged.ledger.salvage import CONTRADICTED
from edged.ledger.schema import DELIVERED, DUE, KINDS, SINKS

SHOWN: Final = 20
"""So many damages of pages are named; a file with more is as bad."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """`counts`: results, wafers, events and undelivered messages, as far as they can be counted. `distrusted`: the next start rebuilds."""

    path: Path
    problems: tuple[str, ...]
    counts: dict[str, int]
    distrusted: bool


def inspect(state_dir: Path, *, rebuild: bool = False) -> Inspection:
    """Unavailable: there is none, or it cannot be opened; LedgerNewer. `rebuild`: what is wrong is rebuilt by the daemon's next start."""
    path = state_dir / FILE
    if not path.exists():
        raise Unavailable(f"the ledger {path}", "there is none", "Name the configuration whose daemon writes it.")
    problems, counts = list[str](), dict[str, int]()
    reached = Mark(path).read()  # before the first read: what the daemon records meanwhile is not missing
    try:
        connection = open_reader(path)
        try:
            refuse_newer(connection, str(path))
            if len(applied(connection)) < len(ALL):
                raise Unavailable(f"the ledger {path}", "an older edged wrote it", "Start the daemon once: it adds what is new.")
            connection.execute("BEGIN")
            _look(connection, reached, problems)
            counts = _counts(connection)
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        known = translated(error, path)
        if not isinstance(known, LedgerCorrupt):
            raise known or error from None
        problems.append(f"The file does not read: {known.cause}.")
    if problems and rebuild:
        distrust(path)
    return Inspection(path, tuple(problems), counts, suspect(path).exists())


def _look(connection: sqlite3.Connection, reached: Reached | None, problems: list[str]) -> None:
    """Adds to `problems` as it goes, so that what was found before a page that does not read is told too."""
    pages = [said for (said,) in connection.execute(f"PRAGMA integrity_check({SHOWN})").fetchall() if said != "ok"]
    problems += [f"A page is damaged: {said}." for said in pages]
    if reached is not None and (lacking := reached.lacking(connection)):
        problems.append(f"{lacking[0].upper()}{lacking[1:]}.")
    for look in (_foreign, _numbers, _rows):
        problems += filter(None, look(connection))


def _foreign(connection: sqlite3.Connection) -> Iterator[str]:
    found: dict[tuple[str, str], list[Any]] = {}
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchall():
        found.setdefault((table, parent), []).append(row)
    for (table, parent), rows in found.items():
        yield _counted(
            len(rows), f"row of {table} names a {parent} that is not there", f"rows of {table} name a {parent} that is not there", rows[0]
        )


def _numbers(connection: sqlite3.Connection) -> Iterator[str]:
    """Every number up to the last is here or rightly absent, and only once."""
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone() or (None,)
    if epoch is None:
        yield "The ledger has no epoch."
        return
    lasts = {(epoch, kind): last for kind, last in connection.execute("SELECT kind, last FROM sequence").fetchall()}
    if lacking := [kind for kind in KINDS if (epoch, kind) not in lasts]:
        yield f"The last number of {', '.join(lacking)} is missing."
    ended = {(of, kind): last for of, kind, last in connection.execute("SELECT epoch, kind, last FROM ended").fetchall()}
    for (of, kind), last in {**ended, **lasts}.items():
        there, absent = numbers_there(connection, of, kind)
        whole = sorted(there + absent)
        if holes := gaps(whole, 1, last):
            count = sum(high - low + 1 for low, high in holes)
            numbers = "number is" if count == 1 else "numbers are"
            yield f"{count} {numbers} missing of {kind} in epoch {of}: {_ranges(holes)}."
        if beyond := [low for low, high in whole if high > last]:
            yield f"A {kind} in epoch {of} has a number above the last one given away, {last}: {beyond[0]}."
        if any(low <= before for (_, before), (low, _) in pairwise(whole)):
            yield f"Numbers of {kind} in epoch {of} count as absent and are there."


def _rows(connection: sqlite3.Connection) -> Iterator[str]:
    damaged, wrong = list(damaged_messages(connection)), list(damaged_landings(connection))
    yield _counted(len(damaged), "message is not what was written (its checksum differs)", "messages are not what was written", damaged[:1])
    yield _counted(len(wrong), "landing is not what was written (its checksum differs)", "landings are not what was written", wrong[:1])
    for one, many, sql, values in (
        ("result contradicts its message", "results contradict their messages", CONTRADICTED, ()),
        ("message has lost its result", "messages have lost their results", _WITHOUT_RESULT, ()),
        ("message is in no outbox", "messages are in no outbox", _UNDELIVERABLE, SINKS),
        ("row of the outbox is not valid", "rows of the outbox are not valid", _INVALID, (DUE, DELIVERED, *SINKS)),
    ):
        count, first = connection.execute(f"SELECT count(*), min(message) FROM ({sql})", values).fetchone()  # noqa: S608 - our own words
        yield _counted(count, one, many, first)


_WITHOUT_RESULT: Final = (
    "SELECT message FROM message m WHERE kind = 'result' AND NOT EXISTS (SELECT 1 FROM result r WHERE r.message = m.message)"
)
_UNDELIVERABLE: Final = "SELECT message FROM message m WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.message = m.message AND o.sink = ?)"
_INVALID: Final = (
    "SELECT o.message FROM outbox o LEFT JOIN message m ON m.message = o.message WHERE typeof(o.state) <> 'integer' "  # noqa: S608 - marks
    f"OR o.state NOT BETWEEN ? AND ? OR o.sink NOT IN ({', '.join('?' for _ in SINKS)}) OR o.topic IS NOT m.topic"
)


def _counted(count: int, one: str, many: str, first: object) -> str:
    """Empty for none."""
    seen = first[0] if isinstance(first, list) and first else first
    return f"{count} {one if count == 1 else many} ({'row' if count == 1 else 'first: row'} {seen})." if count else ""


def _ranges(holes: list[list[int]]) -> str:
    shown = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in holes[:5])
    return shown + (f" and {len(holes) - 5} more ranges" if len(holes) > 5 else "")


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    counts: dict[str, int] = {}
    with suppress(*DAMAGE):
        counts = {f"{kind}s": connection.execute("SELECT count(*) FROM message WHERE kind = ?", (kind,)).fetchone()[0] for kind in KINDS}
        counts["undelivered"] = connection.execute("SELECT count(*) FROM outbox WHERE state < ?", (DELIVERED,)).fetchone()[0]
    return counts
