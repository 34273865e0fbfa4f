"""/api/v1: what people do to the station's ledger, and the audit of all that anybody did. Every change is audited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web
from pydantic import Field

from edged.nouns import Change
from edged.web.answers import Refused, as_json
from edged.web.fence import CALLER
from edged.web.queries import Nothing, Text, asked
from edged.web.routes import Route

CURSOR = Refused(400, "The cursor `after` is not one of this station.", "Begin again without `after`.")


class Actions(Protocol):
    """What the daemon does for those who act. Every call may raise Unavailable."""

    async def audit(self, change: Change) -> None:
        """A row, and `event/audit`."""

    async def audited(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        """Newest first, and the cursor of the next page. `ValueError`: `after` is no cursor of ours."""
        ...


class PageQuery(Nothing):
    """`after` is the `next` of the page before."""

    after: Text | None = None
    limit: int = Field(50, ge=1, le=500)


def change(
    request: web.Request, what: str, target: str, before: Mapping[str, Any] | None = None, after: Mapping[str, Any] | None = None
) -> Change:
    """Of a request that has passed the fence: `await actions.audit(change(request, "cameras.pause", "cam1", before, after))`."""
    caller = request[CALLER]
    return Change(caller.name, caller.role.name.lower(), what, target, before, after)


class Acting:
    """Handlers over one `Actions`."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions

    def routes(self) -> tuple[Route, ...]:
        base = "/api/v1"
        return (Route("GET", f"{base}/audit", "audit", "Who changed what, newest first.", self.audit, query=PageQuery, problems=(400,)),)

    async def audit(self, request: web.Request) -> web.Response:
        query = asked(PageQuery, request)
        try:
            rows, cursor = await self._actions.audited(query.after, query.limit)
        except ValueError:
            raise CURSOR from None
        return as_json({"changes": rows, "next": cursor})
