"""The aiohttp application: the route table behind the fence."""

from __future__ import annotations

from aiohttp import hdrs, web

from edged.config import Http
from edged.web.acting import Acting
from edged.web.api import Api
from edged.web.auth import Tokens
from edged.web.cameras import CameraActions
from edged.web.fence import BODY_BYTES, Names, check_caller, check_names, check_query, deliver, read_body
from edged.web.pace import check_pace
from edged.web.page import Page
from edged.web.probes import Probes
from edged.web.routes import Route
from edged.web.views import StationView


def routes(view: StationView) -> tuple[Route, ...]:
    """The whole table."""
    pages, reading = (*Page(view).routes(), *Probes(view).routes()), Api(view).routes()
    return (*pages, *reading, *Acting(view.actions).routes(), *CameraActions(view).routes())


def application(config: Http, view: StationView, tokens: Tokens) -> web.Application:
    table = routes(view)
    names = Names.of(config)
    by_address = {(route.method, route.path): route for route in table}
    caller = check_caller(names, tokens, by_address)
    fence = [deliver(), check_names(names), check_pace(), caller, check_query(by_address), read_body()]
    app = web.Application(middlewares=fence, client_max_size=BODY_BYTES)
    for route in table:
        if route.method == hdrs.METH_GET:
            app.router.add_get(route.path, route.handler, name=route.name)  # answers HEAD too
        else:
            app.router.add_route(route.method, route.path, route.handler, name=route.name)
    return app
