"""The route table as data: what is served, who may use it, what it takes. The server and the OpenAPI document are both made from it."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import hdrs
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from edged.web.auth import Role


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    `role`: what a write always needs, and a read beyond loopback; None: open to everybody, everywhere.
    `query`: the model of its query parameters. `problems`: the statuses it can refuse with beyond those of the fence.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    role: Role | None = Role.VIEWER
    query: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()

    @property
    def writes(self) -> bool:
        return self.method != hdrs.METH_GET
