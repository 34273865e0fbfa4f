"""What people ask of the ledger. Functions of a read-only connection; times are aware UTC datetimes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from edged.ledger.identity import name_hash
from edged.ledger.schema import DELIVERED, PENDING, STATE_NAMES
from edged.nouns import display_name

Facts = dict[str, Any]
TRACED: Final = 100
"""A name that is re-used all day: the newest of its landings are told."""

_RESULT: Final = (
    "SELECT r.message, r.id, r.decided, r.camera, r.name, r.page, r.verdict, r.reason, r.lot, r.wafer, r.recipe, r.sequence, o.state "
    "FROM result r LEFT JOIN outbox o ON o.message = r.message AND o.sink = 'mqtt'"
)


@dataclass(frozen=True, slots=True)
class Figures:
    """`rows`: outbox rows not delivered, by state; `oldest_s`: age of the oldest that is neither parked nor delivered."""

    rows: dict[str, int] = field(default_factory=lambda: {name: 0 for state, name in STATE_NAMES.items() if state != DELIVERED})
    oldest_s: float | None = None
    results: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    db_bytes: int | None = None

    @property
    def undelivered(self) -> int:
        return sum(count for name, count in self.rows.items() if name != "parked")


def figures(connection: sqlite3.Connection, now: float) -> Figures:
    rows, oldest = dict.fromkeys((name for state, name in STATE_NAMES.items() if state != DELIVERED), 0), None
    for state, count, first in connection.execute(
        "SELECT state, count(*), min(message) FROM outbox INDEXED BY outbox_open WHERE sink = 'mqtt' AND state < 4 GROUP BY state"
    ).fetchall():
        rows[STATE_NAMES[state]] = count
        if STATE_NAMES[state] != "parked":
            (created,) = connection.execute("SELECT created FROM message WHERE message = ?", (first,)).fetchone()
            oldest = created if oldest is None else min(oldest, created)
    bad = dict(connection.execute("SELECT verdict, count(*) FROM result INDEXED BY result_bad WHERE verdict <> 'PASS' GROUP BY verdict"))
    (results,) = connection.execute("SELECT count(*) FROM result").fetchone()
    (pages,), (page_bytes,) = connection.execute("PRAGMA page_count").fetchone(), connection.execute("PRAGMA page_size").fetchone()
    verdicts = {"PASS": results - sum(bad.values()), **{kind: bad.get(kind, 0) for kind in ("FAIL", "REVIEW", "ERROR")}}
    return Figures(rows, None if oldest is None else max(0.0, now - oldest), results, verdicts, pages * page_bytes)


def results(
    connection: sqlite3.Connection,
    *,
    camera: str | None = None,
    verdict: str | None = None,
    lot: str | None = None,
    wafer: str | None = None,
    since: datetime | None = None,
    after: str | None = None,
    limit: int = 50,
) -> tuple[list[Facts], str | None]:
    """Newest first, and the cursor of the next page. ValueError: `after` is no cursor of ours."""
    terms, values = ["1"], list[Any]()
    for column, wanted in (("camera", camera), ("verdict", verdict), ("lot", lot), ("wafer", wafer)):
        if wanted is not None:
            # The second term lets SQLite use the index that leaves out the common value.
            terms.append(f"r.{column} = ?" + (" AND r.verdict <> 'PASS'" if column == "verdict" and wanted != "PASS" else ""))
            values.append(wanted)
    if since is not None:
        terms.append("r.decided >= ?")
        values.append(since.timestamp())
    if after is not None:
        if not (after.isascii() and after.isdigit()):
            raise ValueError(f"{after!r} is no cursor of a list of results")
        terms.append("r.message < ?")
        values.append(int(after))
    rows = connection.execute(f"{_RESULT} WHERE {' AND '.join(terms)} ORDER BY r.message DESC LIMIT ?", (*values, limit + 1)).fetchall()
    return [_result(row) for row in rows[:limit]], str(rows[limit - 1][0]) if len(rows) > limit else None


def result(connection: sqlite3.Connection, id_: str) -> bytes | None:
    """The message as it was, or will be, published."""
    try:
        key = UUID(id_).bytes
    except ValueError:
        return None
    found = connection.execute("SELECT m.body FROM result r JOIN message m ON m.message = r.message WHERE r.id = ?", (key,)).fetchone()
    return None if found is None else bytes(found[0])


def counts(connection: sqlite3.Connection, since: datetime) -> dict[str, int]:
    """Verdicts decided since then. Rows are in the order of their commits, so only the newest are looked at."""
    last = connection.execute("SELECT message FROM result WHERE decided < ? ORDER BY message DESC LIMIT 1", (since.timestamp(),)).fetchone()
    rows = connection.execute("SELECT verdict, count(*) FROM result WHERE message > ? GROUP BY verdict", (last[0] if last else 0,))
    return {str(verdict): int(count) for verdict, count in rows}


def trace(connection: sqlite3.Connection, name: str) -> list[Facts]:
    """What is known of files of this name (bare, or below the camera's folder), oldest first: `time`, `what`, and facts."""
    raw = name.encode("utf-8", "surrogateescape")
    wanted = {name, display_name(raw)}
    rows = connection.execute(
        "SELECT landing, camera, path, size, sha256, how, same_as, id, detected, recorded, gone, gone_by, disposal, moved_to, verdict, "
        "reason FROM landing WHERE base IN (?, ?) ORDER BY landing DESC LIMIT ?",
        (name_hash(raw), name_hash(name.encode("utf-8", "backslashreplace")), TRACED),
    ).fetchall()
    entries: list[Facts] = []
    for row in reversed(rows):
        shown = display_name(row[2])
        if shown in wanted or ("/" not in name and shown.rpartition("/")[2] in wanted):
            entries += _landing_entries(connection, row, shown)
    return entries


def _landing_entries(connection: sqlite3.Connection, row: tuple[Any, ...], shown: str) -> list[Facts]:
    landing, camera, _, size, sha256, how, same_as, id_, detected, recorded, gone, gone_by, disposal, moved_to, verdict, reason = row
    about = {"camera": camera, "name": shown}
    seen = {**about, "size": size, "sha256": sha256.hex() if sha256 else None}
    entries: list[Facts] = [{"time": _utc(detected), "what": "seen", **seen}] if detected else []
    if how == "baseline":
        why = "it lay in the folder at the camera's first start (existing = baseline)"
        entries.append({"time": _utc(recorded), "what": "known", **about, "reason": why})
    elif how != "judged":
        why = "same content, only touched" if how == "touched" else "a judged file under a new name"
        entries.append({"time": _utc(recorded), "what": how, **about, "id": _uuid(id_), "reason": why})
    told = connection.execute(
        "SELECT r.id, r.page, r.judgement, r.verdict, r.reason, r.sequence, r.decided, m.created, m.epoch, t.name, o.state, o.at, "
        "o.attempts, o.reason, o.sent_at, m.body FROM result r JOIN message m ON m.message = r.message JOIN topic t ON t.topic = m.topic "
        "LEFT JOIN outbox o ON o.message = r.message AND o.sink = 'mqtt' WHERE r.landing = ? ORDER BY r.message",
        (same_as or landing,),
    ).fetchall()
    for number, each in enumerate(told):
        entries += _stages(each, about, settled=number == 0 and how == "judged") + _result_entries(each, about)
    if not told and how == "judged":
        pruned = "its result is older than the retention time"
        entries.append(
            {"time": _utc(recorded), "what": "recorded", **about, "id": _uuid(id_), "verdict": verdict, "reason": reason, "note": pruned}
        )
    if gone is not None:
        what = {"us": "gone" if disposal == PENDING else disposal or "moved", "vanished": "vanished", "renamed": "renamed away"}.get(
            gone_by, gone_by
        )
        entries.append({"time": _utc(gone), "what": what, **about, "to": moved_to})
    return entries


def _stages(row: tuple[Any, ...], about: Facts, *, settled: bool) -> list[Facts]:
    """What came before the verdict. Of decoding and inference the durations were measured, not the moments, so they have no time."""
    page, decided, timing_ms = row[1], row[6], _said(row[15])["timing_ms"]
    entries: list[Facts] = []
    if settled and {"settle", "total"} <= timing_ms.keys():
        # `total` runs from the first look to the verdict, `settle` is its first part.
        moment = decided - (timing_ms["total"] - timing_ms["settle"]) / 1000
        entries.append({"time": _utc(moment), "what": "settled", **about, "ms": timing_ms["settle"]})
    for stage, what in (("decode", "decoded"), ("infer", "inferred")):
        if stage in timing_ms:
            entries.append({"time": None, "what": what, **about, "page": page, "ms": timing_ms[stage]})
    return entries


def _said(body: bytes) -> Facts:
    """What the message tells of the verdict beside what the table holds."""
    data = json.loads(body)["data"]
    detail = {"detail": data["detail"]} if "detail" in data else {}
    return {**detail, "timing_ms": {stage: ms for stage, ms in data["timing_ms"].items() if ms is not None}}


def _result_entries(row: tuple[Any, ...], about: Facts) -> list[Facts]:
    id_, page, judgement, verdict, reason, sequence, decided, created, epoch, topic, state, at, attempts, why, sent_at, body = row
    who = {**about, "id": _uuid(id_)}
    name = STATE_NAMES.get(state, "delivered")
    notes = {
        "due": "waits for the broker",
        "accepted": "the broker has it; the MES has not acknowledged it yet",
        "held": "nobody subscribes to its topic",
        "parked": why or "put aside",
        "delivered": why,
    }
    judged = {"verdict": verdict, "reason": reason, "page": page, "judgement": judgement, **_said(body)}
    if state == DELIVERED and sent_at is None:
        attempts += 1  # the ledger counts what failed and what the broker took for the MES; this one was done with at once
    return [
        {"time": _utc(decided), "what": "judged", **who, **judged},
        {"time": _utc(created), "what": "recorded", **who, "sequence": f"{sequence:012d}", "epoch": epoch},
        {"time": _utc(at) if at else None, "what": name, **who, "topic": topic, "attempts": attempts, "note": notes[name]},
    ]


def _result(row: tuple[Any, ...]) -> Facts:
    _, id_, decided, camera, name, page, verdict, reason, lot, wafer, recipe, sequence, state = row
    return {
        "id": _uuid(id_),
        "decided": _utc(decided),
        "camera": camera,
        "name": name,
        "page": page,
        "verdict": verdict,
        "reason": reason,
        "lot_id": lot,
        "wafer_id": wafer,
        "recipe": recipe,
        "sequence": f"{sequence:012d}",
        "delivered": None if state is None else state == DELIVERED,
    }


def _uuid(id_: bytes | None) -> str | None:
    return str(UUID(bytes=id_)) if id_ else None


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
