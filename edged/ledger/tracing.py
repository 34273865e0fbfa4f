"""Where an image is, and why it has no result: what the ledger knows of a file's name, oldest first. Functions of a read-only connection.

Invariants
- Every question goes by an index (of bare names, of lots): a million landings answer as quickly as ten.
- At most `TRACED` landings and events of a name are told, the newest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any, Final

from edged.ledger.identity import name_hash
from edged.ledger.read import Facts, results, utc, uuid_text
from edged.ledger.schema import DELIVERED, PENDING, STATE_NAMES
from edged.nouns import display_name

TRACED: Final = 100
"""A name that is re-used all day: the newest of its landings are told."""
_WHY: Final = {"asked": "somebody asked for it", "released": "released from quarantine", "late": "its sidecar came late"}


def trace(connection: sqlite3.Connection, name: str) -> list[Facts]:
    """What is known of files of this name (bare, or below the camera's folder), oldest first: `time`, `what`, and facts."""
    raw = name.encode("utf-8", "surrogateescape")
    bases = (name_hash(raw), name_hash(name.encode("utf-8", "backslashreplace")))
    wanted = {name, display_name(raw)}
    rows = connection.execute(
        "SELECT landing, camera, path, size, sha256, how, same_as, id, detected, recorded, gone, gone_by, disposal, moved_to, verdict, "
        "reason FROM landing WHERE base IN (?, ?) ORDER BY landing DESC LIMIT ?",
        (*bases, TRACED),
    ).fetchall()
    groups = [
        (row[8] or row[9], _landing_entries(connection, row, display_name(row[2]))) for row in rows if _is(display_name(row[2]), wanted)
    ]
    groups += [(entry["time"].timestamp(), [entry]) for entry in _events(connection, bases, wanted)]
    return [entry for _, entries in sorted(groups, key=lambda group: group[0]) for entry in entries]


def lot(connection: sqlite3.Connection, name: str, limit: int) -> list[Facts]:
    """The newest results of a lot, oldest first."""
    rows, _ = results(connection, lot=name, limit=limit)
    return [{"time": row.pop("decided"), "what": "judged", **row} for row in reversed(rows)]


def _is(shown: str, wanted: Collection[str]) -> bool:
    return shown in wanted or shown.rpartition("/")[2] in wanted


def _events(connection: sqlite3.Connection, bases: tuple[int, int], wanted: Collection[str]) -> list[Facts]:
    """What the plant was told of files of this name: vanished, ignored, in quarantine ..."""
    rows = connection.execute(
        "SELECT m.created, t.name, m.body FROM about a JOIN message m ON m.message = a.message JOIN topic t ON t.topic = m.topic "
        "WHERE a.base IN (?, ?) ORDER BY a.message DESC LIMIT ?",
        (*bases, TRACED),
    ).fetchall()
    told = []
    for created, topic, body in rows:
        data = json.loads(body)["data"]
        if _is(data["file"], wanted):
            facts = {key: value for key, value in data.items() if key not in ("camera", "file", "cause")}
            kind = topic.rpartition("/event/")[2]
            told.append(
                {
                    "time": utc(created),
                    "what": kind,
                    "camera": data.get("camera"),
                    "name": data["file"],
                    "reason": data.get("cause"),
                    **facts,
                }
            )
    return told


def _landing_entries(connection: sqlite3.Connection, row: tuple[Any, ...], shown: str) -> list[Facts]:
    landing, camera, _, size, sha256, how, same_as, id_, detected, recorded, gone, gone_by, disposal, moved_to, verdict, reason = row
    about = {"camera": camera, "name": shown}
    seen = {**about, "size": size, "sha256": sha256.hex() if sha256 else None}
    entries: list[Facts] = [{"time": utc(detected), "what": "seen", **seen}] if detected else []
    if how == "baseline":
        why = "it lay in the folder at the camera's first start (existing = baseline)"
        entries.append({"time": utc(recorded), "what": "known", **about, "reason": why})
    elif how != "judged":
        why = "same content, only touched" if how == "touched" else "a judged file under a new name"
        entries.append({"time": utc(recorded), "what": how, **about, "id": uuid_text(id_), "reason": why})
    told = connection.execute(
        "SELECT r.id, r.page, r.judgement, r.verdict, r.reason, r.sequence, r.decided, m.created, m.epoch, t.name, o.state, o.at, "
        "o.attempts, o.reason, o.sent_at, m.body FROM result r JOIN message m ON m.message = r.message JOIN topic t ON t.topic = m.topic "
        "LEFT JOIN outbox o ON o.message = r.message AND o.sink = 'mqtt' WHERE r.landing = ? ORDER BY r.message",
        (same_as or landing,),
    ).fetchall()
    asked = _asked(connection, same_as or landing, about)
    for number, each in enumerate(told):
        entries += asked.pop(each[2], [])
        entries += _stages(each, about, settled=number == 0 and how == "judged") + _result_entries(each, about)
    if not told and how == "judged":
        pruned = "its result is older than the retention time"
        entries.append(
            {"time": utc(recorded), "what": "recorded", **about, "id": uuid_text(id_), "verdict": verdict, "reason": reason, "note": pruned}
        )
    entries += [entry for each in asked.values() for entry in each]
    if gone is not None:
        what = {"us": "gone" if disposal == PENDING else disposal or "moved", "vanished": "vanished", "renamed": "renamed away"}.get(
            gone_by, gone_by
        )
        entries.append({"time": utc(gone), "what": what, **about, "to": moved_to})
    return entries


def _asked(connection: sqlite3.Connection, landing: int, about: Facts) -> dict[int, list[Facts]]:
    """Who asked for another judgement, by its number."""
    rows = connection.execute(
        "SELECT judgement, why, recipe, who, asked, ended, outcome FROM rejudgement WHERE landing = ? ORDER BY judgement", (landing,)
    ).fetchall()
    told = {}
    for judgement, why, recipe, who, asked, ended, outcome in rows:
        state = "open" if ended is None else outcome
        facts = {"judgement": judgement, "by": who, "reason": _WHY.get(why, why), "recipe": recipe, "state": state}
        told[judgement] = [{"time": utc(asked), "what": "rejudge", **about, **facts}]
    return told


def _stages(row: tuple[Any, ...], about: Facts, *, settled: bool) -> list[Facts]:
    """What came before the verdict. Of decoding and inference the durations were measured, not the moments, so they have no time."""
    page, decided, timing_ms = row[1], row[6], _said(row[15])["timing_ms"]
    entries: list[Facts] = []
    if settled and {"settle", "total"} <= timing_ms.keys():
        # `total` runs from the first look to the verdict, `settle` is its first part.
        moment = decided - (timing_ms["total"] - timing_ms["settle"]) / 1000
        entries.append({"time": utc(moment), "what": "settled", **about, "ms": timing_ms["settle"]})
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
    who = {**about, "id": uuid_text(id_)}
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
        {"time": utc(decided), "what": "judged", **who, **judged},
        {"time": utc(created), "what": "recorded", **who, "sequence": f"{sequence:012d}", "epoch": epoch},
        {"time": utc(at) if at else None, "what": name, **who, "topic": topic, "attempts": attempts, "note": notes[name]},
    ]
