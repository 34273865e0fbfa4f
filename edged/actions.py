"""What people ask the daemon to do: `web.acting.Actions` over the rooms. Each change and its audit row are one transaction where both are
rows of the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edged.nouns import Change

if TYPE_CHECKING:
    from edged.daemon import Daemon


class Actions:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def audit(self, change: Change) -> None:
        await self._daemon.ledger.audit.tell(change)

    async def audited(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        return await self._daemon.ledger.audit.read(after, limit)
