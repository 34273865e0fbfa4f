"""What every request passes before a handler sees it, from outside in.

Invariants
- Every answer carries the security headers, every refusal is a problem (RFC 9457), no answer waits longer than `ANSWER_S` for its reader.
- A request under a name that is not this station's is refused (421): a page that rebinds its DNS name to loopback reaches nothing.
- A write from a foreign page is refused (403) before its token is looked at; cookies play no part.
- A body is read whole, at most `BODY_BYTES` within `BODY_S`, before the handler runs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ValidationError

from edged.config import Http
from edged.errors import Conflict, ModelMismatch, Unavailable
from edged.web.answers import SECURITY_HEADERS, Refused, problem
from edged.web.auth import Caller, Role, Tokens
from edged.web.routes import Route

BODY_BYTES = 64 * 1024
BODY_S = 5.0
ANSWER_S = 15.0
READING = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CALLER = web.RequestKey("caller", Caller)
QUERY = web.RequestKey("query", BaseModel)

NO_TOKENS_FILE = Refused(
    403,
    "This station changes nothing over HTTP, because no tokens are configured.",
    "Set [http] tokens_file to a file with lines `role name token`, where role is operator or engineer, and restart edged.",
)


@dataclass(frozen=True, slots=True)
class Names:
    """The host names this station answers to; `any_address`: also to every IP address (a name can be rebound, an address cannot)."""

    hosts: frozenset[str]
    any_address: bool
    loopback: bool

    @classmethod
    def of(cls, config: Http) -> Names:
        bound = config.bind.rsplit(":", 1)[0].strip("[]").lower()
        hosts = set(LOOPBACK_NAMES) if bound in LOOPBACK_NAMES else {bound, socket.gethostname().lower()}
        if config.public_url:
            hosts.add((urlsplit(config.public_url).hostname or "").lower())
        return cls(frozenset(hosts - {""}), bound in ("0.0.0.0", "::"), bound in LOOPBACK_NAMES)  # noqa: S104 - compared, not bound

    def include(self, host: str) -> bool:
        """`host` as in the Host header, with or without a port."""
        name = host_name(host)
        return name in self.hosts or (self.any_address and _is_address(name))


def host_name(host: str) -> str:
    """Without port and brackets, in lower case."""
    bare = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return bare.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def deliver() -> Middleware:
    """Outermost: turns refusals into problems and sends the answer under a deadline, so that a client that does not read is let go."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await _answer(request, handler)
        answer.headers.update(SECURITY_HEADERS)
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer.prepare(request)
                await answer.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return answer

    return middleware


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return problem(request.path, refused)
    except Unavailable as away:
        return problem(request.path, Refused(503, f"{away}.", away.hint, headers={hdrs.RETRY_AFTER: "5"}))
    except Conflict as conflict:
        return problem(request.path, Refused(409, conflict.detail, conflict.hint, kind=conflict.kind))
    except ModelMismatch as mismatch:
        return problem(request.path, Refused(409, f"{mismatch}.", mismatch.hint))
    except web.HTTPException as refused:
        if refused.status < 400:
            raise
        return problem(request.path, Refused(refused.status, _DETAILS.get(refused.status, refused.reason), headers=_kept(refused)))


_DETAILS = {
    404: "There is nothing under this address.",
    405: "This address does not know this method.",
    413: f"The request's body is larger than {BODY_BYTES} bytes.",
}


def _kept(refused: web.HTTPException) -> dict[str, str]:
    return {name: refused.headers[name] for name in (hdrs.ALLOW, hdrs.RETRY_AFTER) if name in refused.headers}


def check_names(names: Names) -> Middleware:
    """421 for a foreign Host, 403 for a write that a foreign page sent."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        if not names.include(host):
            known = ", ".join(sorted(names.hosts))
            raise Refused(421, "This station does not go by that name.", f"Use one of: {known}; or set [http] public_url.")
        if request.method not in READING:
            origin = request.headers.get(hdrs.ORIGIN)
            same = origin is None or urlsplit(origin).netloc.lower() == host.lower()
            if not same or request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                hint = "Send the request from a program, or from this station's page."
                raise Refused(403, "Changes are not accepted from other pages.", hint)
        return await handler(request)

    return middleware


def check_caller(names: Names, tokens: Tokens, routes: dict[tuple[str, str], Route]) -> Middleware:
    """401 without a token that is needed, 403 where its role does not reach."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = _route(request, routes)
        # Beyond loopback a stranger is not even told which addresses exist.
        need = route.role if route else Role.VIEWER
        if names.loopback and (route is None or request.method in READING):
            need = None
        if need is not None:
            request[CALLER] = _caller(request, tokens, need)
        return await handler(request)

    return middleware


def _route(request: web.Request, routes: dict[tuple[str, str], Route]) -> Route | None:
    resource = request.match_info.route.resource
    method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
    return routes.get((method, resource.canonical)) if resource is not None else None


def check_query(routes: dict[tuple[str, str], Route]) -> Middleware:
    """400 that names every wrong query parameter of a route that declares its own."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = _route(request, routes)
        if route is not None and route.query is not None:
            try:
                request[QUERY] = route.query.model_validate(dict(request.query))
            except ValidationError as wrong:
                hint = "Correct those named under errors."
                raise Refused(400, "The query parameters are not right.", hint, errors=wrongs(wrong)) from None
        return await handler(request)

    return middleware


def wrongs(wrong: ValidationError) -> list[dict[str, str]]:
    """Every wrong parameter, by its name."""
    return [{"parameter": ".".join(map(str, one["loc"])), "problem": one["msg"]} for one in wrong.errors()]


def _caller(request: web.Request, tokens: Tokens, need: Role) -> Caller:
    if not tokens.configured:
        raise NO_TOKENS_FILE
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    caller = tokens.caller(token.strip()) if scheme.lower() == "bearer" and token.strip() else None
    if caller is None:
        sent = "The token is not known here." if token else "This needs a token."
        headers = {"WWW-Authenticate": 'Bearer realm="edged"'}
        raise Refused(401, sent, "Send the header `Authorization: Bearer TOKEN`; tokens stand in [http] tokens_file.", headers=headers)
    if caller.role < need:
        raise Refused(403, f"The role {caller.role.name.lower()} may not do this; {need.name.lower()} may.", "Use a token with that role.")
    return caller


def read_body() -> Middleware:
    """The whole body, small and soon, and JSON where there is one."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if hdrs.CONTENT_ENCODING in request.headers:
            raise Refused(415, "Compressed bodies are not accepted.", "Send the body as it is.")
        try:
            async with asyncio.timeout(BODY_S):
                body = await request.read()
        except TimeoutError:
            raise Refused(408, f"The request's body did not arrive within {BODY_S:.0f} s.", headers={hdrs.CONNECTION: "close"}) from None
        if body and request.method not in READING and request.content_type != "application/json":
            raise Refused(415, "The body must be JSON.", "Send Content-Type: application/json.")
        return await handler(request)

    return middleware
