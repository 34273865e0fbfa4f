"""What people ask the daemon to do: `web.acting.Actions` over the rooms. A change of the ledger and its audit row are one transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from edged.nouns import Change
from edged.web.acting import Changes, Page

if TYPE_CHECKING:
    from edged.daemon import Daemon
    from edged.ledger.judged import Judged, Rejudgement


class Actions:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def audit(self, change: Change) -> None:
        await self._daemon.ledger.audit.tell(change)

    async def audited(self, after: str | None, limit: int) -> Page:
        return await self._daemon.ledger.audit.read(after, limit)

    async def rejudge(self, id_: str, recipe: str | None, change: Changes) -> dict[str, Any]:
        return await self._judged_again(id_, change, recipe=recipe, released=False)

    async def release(self, id_: str, change: Changes) -> dict[str, Any]:
        return await self._judged_again(id_, change, recipe=None, released=True)

    async def _judged_again(self, id_: str, change: Changes, *, recipe: str | None, released: bool) -> dict[str, Any]:
        def audited(judged: Judged, row: Rejudgement) -> Change:
            before = {"image": judged.name, "camera": judged.camera, "judgement": judged.judgement}
            return change(id_, before, {"judgement": row.judgement, "id": row.id, "recipe": recipe})

        who = change(id_, None, None).who
        row = await self._daemon.rejudging.ask(id_, who=who, recipe=recipe, released=released, change=audited)
        judged = row.judged
        told = {"id": row.id, "judgement": row.judgement, "supersedes": judged.ids[0] if judged.ids else None}
        return {**told, "camera": judged.camera, "name": judged.name}

    async def republish(self, id_: str, change: Changes) -> bool:
        ledger = self._daemon.ledger
        return await ledger.outbox.republish(id_, lambda c, _: ledger.audit.write(c, change(id_, None, {"state": "due"})))

    async def retry_parked(self, change: Changes) -> int:
        ledger = self._daemon.ledger
        return await ledger.outbox.unpark(lambda c, count: ledger.audit.write(c, change("outbox", {"parked": count}, {"due": count})))

    async def outbox(self, after: str | None, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
        figures = self._daemon.ledger.figures()
        parked, cursor = await self._daemon.ledger.outbox.parked_rows(after, limit)
        return {"rows": figures.rows, "undelivered": figures.undelivered, "oldest_s": figures.oldest_s}, parked, cursor

    async def quarantined(self, after: str | None, limit: int) -> Page:
        """With what lies in the quarantine's folder now."""
        rows, cursor = await self._daemon.ledger.rejudgements.rejected(after, limit)
        kept = await self._daemon.intake.quarantined()
        for row in rows:
            copies = [kept[id_] for id_ in row.pop("copies") if id_ in kept]
            row["kept"] = bool(copies)
            row["copied"] = datetime.fromtimestamp(copies[0][1], UTC) if copies else None
        return rows, cursor
