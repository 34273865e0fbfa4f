"""The transaction that records a landing: every page's verdict, its number, its message and its outbox row, or nothing.

Invariants
- One landing is recorded once: an id that is there already is never written again.
- A body is composed inside the transaction, because only there its number is known, and never changes afterwards.
- `duplicate_of` names the first recorded page of the same content, of any camera.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

from edged.ledger import matching
from edged.ledger.identity import identity, name_hash, stem_hash
from edged.ledger.matching import Found
from edged.ledger.rows import checksum, insert_landing, next_number, text, topic_of
from edged.ledger.schema import DUE, HELD, MQTT, PENDING
from edged.nouns import Composer, Envelope, Landing, Numbering, PageResult, Recorded, Recording, Verdict, VerdictKind

_GRAVITY: Final = (VerdictKind.ERROR, VerdictKind.FAIL, VerdictKind.REVIEW, VerdictKind.PASS)


class Recorder:
    """Runs in the writer's thread. `age` (the ledger's own clock, `retention.py`) and `epoch` are set once the file is open."""

    def __init__(
        self,
        source: str,
        composer: Composer,
        *,
        age: Callable[[], int] = lambda: 0,
        wall: Callable[[], float] = time.time,
        sinks: Sequence[str] = (MQTT,),
    ) -> None:
        self.epoch = ""
        self._source, self._composer, self.age, self._wall, self._sinks = source, composer, age, wall, tuple(sinks)

    def record(self, connection: sqlite3.Connection, pages: Sequence[PageResult]) -> Recorded:
        first = pages[0]
        # A file too large to be hashed in time has no sha256: then only its place, size and mtime tell it.
        landing, sha256 = first.landing, bytes.fromhex(first.image.sha256) or None
        if first.judgement:
            return self._judged_again(connection, pages, sha256)
        before = matching.at_place(connection, landing)
        if before is not None and (known := matching.same_identity(connection, landing, sha256)) is not None:
            self._back(connection, known)
            return self._known(connection, known, Recording.KNOWN)
        if sha256 and before is not None and before.gone is None and (before.size, before.sha256) == (landing.size, sha256):
            self._alias(connection, first, sha256, before, "touched")
            return self._known(connection, before, Recording.SAME)
        # Content that was never seen is nobody's copy and nobody's new name: the common case asks once.
        seen = sha256 is not None and matching.is_seen(connection, sha256)
        if (seen or not sha256) and (salvaged := matching.of_result(connection, self._id(first))) is not None:
            self._alias(connection, first, sha256, salvaged, "touched")
            return self._known(connection, salvaged, Recording.KNOWN)
        if seen and sha256 and (moved := matching.renamed(connection, landing, sha256)) is not None:
            connection.execute("UPDATE landing SET gone_by = 'renamed' WHERE landing = ?", (moved.landing,))
            self._alias(connection, first, sha256, moved, "renamed")
            return self._known(connection, moved, Recording.RENAMED)
        twins = [matching.twin(connection, self._source, page) if seen else None for page in pages]
        return self._new(connection, pages, sha256, before, twins)

    def announce(self, connection: sqlite3.Connection, kind: str, data: Mapping[str, Any]) -> int:
        """An event's message; returns its sequence."""
        numbering = Numbering(str(uuid4()), self.epoch, "event", next_number(connection, "event"))
        message = self._post(connection, numbering, self._composer.event(kind, data, numbering))
        if isinstance(file := data.get("file"), str):
            connection.execute("INSERT INTO about VALUES (?, ?)", (message, name_hash(file.encode("utf-8", "backslashreplace"))))
        return numbering.sequence

    def _new(
        self,
        connection: sqlite3.Connection,
        pages: Sequence[PageResult],
        sha256: bytes | None,
        before: Found | None,
        twins: Sequence[str | None],
    ) -> Recorded:
        """`before`: what was recorded at this place last; `twins`: the first recorded id of each page's content."""
        supersedes = None
        # One that was gone in between did not complete: what lies there now is another image.
        if before is not None and (before.gone, before.verdict, before.reason) == (None, VerdictKind.ERROR, "truncated") and before.id:
            supersedes = str(UUID(bytes=before.id))
        worst = _worst(pages)
        ids = [self._id(page) for page in pages]
        row = insert_landing(
            connection,
            pages[0],
            sha256,
            "judged",
            None,
            ids[0].bytes,
            len(pages),
            worst.kind,
            text(worst.reason),
            self._wall(),
            self.age(),
        )
        self._await_sidecar(connection, row, pages[0].landing, before)
        for page, id_, twin in zip(pages, ids, twins, strict=True):
            numbering = Numbering(str(id_), self.epoch, "result", next_number(connection, "result"), twin, page.supersedes or supersedes)
            self._write(connection, page, row, numbering, id_)
        return Recorded(Recording.RECORDED, tuple(map(str, ids)), tuple(page.verdict.kind for page in pages))

    def _await_sidecar(self, connection: sqlite3.Connection, row: int, landing: Landing, before: Found | None) -> None:
        """A sidecar that comes late belongs to the newest image of its name."""
        if before is not None:
            connection.execute("DELETE FROM awaiting WHERE landing = ?", (before.original,))
        if landing.late_s > 0:
            until = self.age() + int(landing.late_s)
            connection.execute("INSERT INTO awaiting VALUES (?, ?, ?)", (row, stem_hash(landing.camera, landing.path), until))

    def _judged_again(self, connection: sqlite3.Connection, pages: Sequence[PageResult], sha256: bytes | None) -> Recorded:
        """A re-judgement hangs on the landing that is there; the same one recorded twice is known."""
        ids = [self._id(page) for page in pages]
        kinds = tuple(page.verdict.kind for page in pages)
        if connection.execute("SELECT 1 FROM result WHERE id = ?", (ids[0].bytes,)).fetchone():
            return Recorded(Recording.KNOWN, tuple(map(str, ids)), kinds)
        row = self._row_judged(connection, pages[0].landing, sha256)
        before = dict(connection.execute("SELECT page, id FROM result WHERE landing = ? ORDER BY judgement", (row,)).fetchall())
        for page, id_ in zip(pages, ids, strict=True):
            # A file that was one ERROR as a whole may have pages by now: each takes the place of that one.
            last = before.get(page.image.page) or (before.get(0) if len(before) == 1 else None)
            supersedes = page.supersedes or (str(UUID(bytes=last)) if last else None)
            self._write(
                connection, page, row, Numbering(str(id_), self.epoch, "result", next_number(connection, "result"), None, supersedes), id_
            )
        worst = _worst(pages)
        connection.execute(
            "UPDATE landing SET verdict = ?, reason = ?, pages = ? WHERE landing = ?", (worst.kind, text(worst.reason), len(pages), row)
        )
        self._ended(connection, row, pages[0])
        return Recorded(Recording.RECORDED, tuple(map(str, ids)), kinds)

    def _row_judged(self, connection: sqlite3.Connection, landing: Landing, sha256: bytes | None) -> int:
        """The row of the landing that was judged first."""
        if landing.again is not None:
            return landing.again.row
        found = matching.same_identity(connection, landing, sha256)
        if found is None:
            raise LookupError(f"{landing.name} was never judged, so it cannot be judged again")
        return found.original

    def _ended(self, connection: sqlite3.Connection, row: int, page: PageResult) -> None:
        """What was asked for is done."""
        ended = connection.execute(
            "UPDATE rejudgement SET ended = ?, outcome = 'recorded', sidecar = NULL WHERE landing = ? AND judgement = ? AND ended IS NULL "
            "RETURNING why",
            (self._wall(), row, page.judgement),
        ).fetchall()
        if ended == [("late",)]:
            material = page.landing.identity.material
            told = {"camera": page.landing.camera, "file": page.landing.name, "id": str(self._id(page)), "judgement": page.judgement}
            told |= {"lot_id": material.lot_id, "wafer_id": material.wafer_id, "verdict": page.verdict.kind.value}
            self.announce(connection, "identity-late", told)

    def _write(self, connection: sqlite3.Connection, page: PageResult, landing: int, numbering: Numbering, id_: UUID) -> None:
        message = self._post(connection, numbering, self._composer.result(page, numbering))
        material, verdict = page.landing.identity.material, page.verdict
        connection.execute(
            "INSERT INTO result VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(message, id_.bytes, landing, page.image.page, page.judgement, numbering.sequence, page.landing.camera, page.landing.name),
                *(verdict.kind, text(verdict.reason), text(material.lot_id), text(material.wafer_id)),
                *(page.landing.recipe, page.decided.timestamp()),
            ),
        )

    def _post(self, connection: sqlite3.Connection, numbering: Numbering, envelope: Envelope) -> int:
        """The message and one outbox row a sink; returns the message's row."""
        topic, held = topic_of(connection, envelope.topic)
        properties = json.dumps(dict(envelope.properties), separators=(",", ":"))
        said = (numbering.kind, numbering.epoch, numbering.sequence, numbering.id)
        message = connection.execute(
            "INSERT INTO message (kind, epoch, sequence, id, topic, created, age, properties, body, checksum) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                *(*said, topic, self._wall(), self.age(), properties, envelope.body),
                checksum(*said, envelope.topic, properties, envelope.body),
            ),
        ).lastrowid
        assert message is not None
        for sink in self._sinks:
            state = HELD if held and sink == MQTT else DUE
            connection.execute("INSERT INTO outbox (message, sink, state, topic) VALUES (?,?,?,?)", (message, sink, state, topic))
        return message

    def _id(self, page: PageResult) -> UUID:
        landing, image = page.landing, page.image
        return identity(
            self._source, landing.camera, landing.path, landing.size, landing.mtime_ns, image.sha256, image.page, page.judgement
        )

    def _alias(self, connection: sqlite3.Connection, page: PageResult, sha256: bytes | None, of: Found, how: str) -> None:
        insert_landing(
            *(connection, page, sha256, how, of.original, of.id, of.pages, of.verdict, of.reason),
            *(self._wall(), self.age()),
        )
        # Under its new name it has the sidecar of that name.
        stem = stem_hash(page.landing.camera, page.landing.path)
        connection.execute("UPDATE awaiting SET stem = ? WHERE landing = ?", (stem, of.original))

    def _back(self, connection: sqlite3.Connection, row: Found) -> None:
        """A recorded identity lies there again: what happens to a judged file happens again."""
        connection.execute(
            "UPDATE landing SET gone = NULL, gone_by = NULL, disposal = ?, moved_to = NULL WHERE landing = ?", (PENDING, row.landing)
        )

    def _known(self, connection: sqlite3.Connection, row: Found, outcome: Recording) -> Recorded:
        found = connection.execute(
            "SELECT id, verdict FROM result WHERE landing = ? AND judgement = 0 ORDER BY page", (row.original,)
        ).fetchall()
        if found:
            return Recorded(outcome, tuple(str(UUID(bytes=id_)) for id_, _ in found), tuple(VerdictKind(verdict) for _, verdict in found))
        # Its results are pruned; the identity is what is left.
        return Recorded(outcome, (str(UUID(bytes=row.id)),) if row.id else (), (VerdictKind(row.verdict),) if row.verdict else ())


def _worst(pages: Sequence[PageResult]) -> Verdict:
    return min((page.verdict for page in pages), key=lambda verdict: _GRAVITY.index(verdict.kind))
