"""Query parameters of routes, as models that the fence checks."""

from __future__ import annotations

from typing import Annotated, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from edged.web.fence import QUERY

Q = TypeVar("Q", bound=BaseModel)
Text = Annotated[str, Field(min_length=1, max_length=255)]


class Nothing(BaseModel):
    """Takes no query parameters."""

    model_config = ConfigDict(extra="forbid")


def asked(model: type[Q], request: web.Request) -> Q:
    """What the fence has checked already."""
    query = request[QUERY]
    assert isinstance(query, model)
    return query
