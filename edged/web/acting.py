"""/api/v1: what people do to the station's ledger, and the audit of all that anybody did. Every change is audited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import hdrs, web
from pydantic import Field

from edged.nouns import Change
from edged.web.answers import Refused, as_json
from edged.web.auth import Role
from edged.web.fence import CALLER
from edged.web.queries import RESULT_ID, Nothing, Text, asked, result_id, told
from edged.web.routes import Route

UNKNOWN = Refused(404, "There is no result with this id.", "It may be past its retention time; GET /api/v1/trace?name= searches by name.")
CURSOR = Refused(400, "The cursor `after` is not one of this station.", "Begin again without `after`.")


Page = tuple[list[dict[str, Any]], str | None]
"""Rows, and the cursor of the next page. Who makes one raises `ValueError` for a cursor that is none of ours."""

Changes = Callable[[str, Mapping[str, Any] | None, Mapping[str, Any] | None], Change]
"""Who asks and for what, completed with the target and the state before and after."""


class Actions(Protocol):
    """What the daemon does for those who act. Every call may raise Unavailable."""

    async def audit(self, change: Change) -> None:
        """A row, and `event/audit`."""

    async def audited(self, after: str | None, limit: int) -> Page:
        """Newest first."""
        ...

    async def rejudge(self, id_: str, recipe: str | None, change: Changes) -> dict[str, Any]:
        """What will be: id, judgement, supersedes, image. `LookupError`: no such result; `ValueError`: no such recipe."""
        ...

    async def release(self, id_: str, change: Changes) -> dict[str, Any]:
        """As `rejudge`, of the copy in quarantine."""
        ...

    async def republish(self, id_: str, change: Changes) -> bool:
        """False: no such result."""
        ...

    async def retry_parked(self, change: Changes) -> int:
        """How many parked messages are due again."""
        ...

    async def outbox(self, after: str | None, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
        """Counts by state and the age of the oldest; parked messages, oldest first; the cursor of the next page."""
        ...

    async def quarantined(self, after: str | None, limit: int) -> Page:
        """Newest first."""
        ...


class RejudgeBody(Nothing):
    """`recipe`: judge by this one, in place of the one it was judged by."""

    recipe: Text | None = None


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
        base, result = "/api/v1", "/api/v1/results/{id}"
        may, judged = Role.OPERATOR, (400, 404, 409, 503)
        return (
            Route("GET", f"{base}/audit", "audit", "Who changed what, newest first.", self.audit, query=PageQuery, problems=(400,)),
            Route(
                "GET",
                f"{base}/outbox",
                "outbox",
                "Waiting and parked messages.",
                self.outbox,
                query=PageQuery,
                problems=(400,),
            ),
            Route("GET", f"{base}/quarantine", "quarantine", "Rejected images.", self.quarantine, query=PageQuery, problems=(400,)),
            Route("POST", f"{result}/rejudge", "rejudge", "Judge the image again.", self.rejudge, may, problems=judged),
            Route("POST", f"{result}/republish", "republish", "Send the same message again.", self.republish, may, problems=(404, 503)),
            Route("POST", f"{base}/outbox/retry", "retry_parked", "Send what is parked once more.", self.retry, may, problems=(503,)),
            Route("POST", f"{base}/quarantine/{{id}}/release", "release", "Judge the kept copy again.", self.release, may, problems=judged),
        )

    async def audit(self, request: web.Request) -> web.Response:
        return await self._page(request, "changes", self._actions.audited)

    async def quarantine(self, request: web.Request) -> web.Response:
        return await self._page(request, "images", self._actions.quarantined)

    async def _page(self, request: web.Request, what: str, read: Callable[[str | None, int], Awaitable[Page]]) -> web.Response:
        query = asked(PageQuery, request)
        try:
            rows, cursor = await read(query.after, query.limit)
        except ValueError:
            raise CURSOR from None
        return as_json({what: rows, "next": cursor})

    async def outbox(self, request: web.Request) -> web.Response:
        query = asked(PageQuery, request)
        try:
            figures, parked, cursor = await self._actions.outbox(query.after, query.limit)
        except ValueError:
            raise CURSOR from None
        return as_json({**figures, "parked": parked, "next": cursor})

    async def rejudge(self, request: web.Request) -> web.Response:
        wish = await told(RejudgeBody, request)
        return await self._judged_again(request, lambda id_: self._actions.rejudge(id_, wish.recipe, _changes(request, "results.rejudge")))

    async def release(self, request: web.Request) -> web.Response:
        return await self._judged_again(request, lambda id_: self._actions.release(id_, _changes(request, "quarantine.release")))

    async def _judged_again(self, request: web.Request, act: Callable[[str], Awaitable[dict[str, Any]]]) -> web.Response:
        try:
            answer = await act(result_id(request))
        except LookupError:
            raise UNKNOWN from None
        except ValueError as wrong:
            raise Refused(400, str(wrong), "Name one of these, or none.") from None
        accepted = as_json({**answer, "state": "accepted"}, status=202)
        accepted.headers[hdrs.LOCATION] = f"/api/v1/results/{answer['id']}"
        return accepted

    async def republish(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        if not RESULT_ID.fullmatch(id_) or not await self._actions.republish(id_, _changes(request, "results.republish")):
            raise UNKNOWN
        return as_json({"id": id_, "state": "due"}, status=202)

    async def retry(self, request: web.Request) -> web.Response:
        return as_json({"due": await self._actions.retry_parked(_changes(request, "outbox.retry"))})


def _changes(request: web.Request, what: str) -> Changes:
    return lambda target, before, after: change(request, what, target, before, after)
