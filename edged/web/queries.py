"""What requests bring with them: query parameters and bodies as models, ids in the address."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edged.web.answers import Refused
from edged.web.fence import QUERY, wrongs

Q = TypeVar("Q", bound=BaseModel)
Text = Annotated[str, Field(min_length=1, max_length=255)]
RESULT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class Nothing(BaseModel):
    """Takes no query parameters."""

    model_config = ConfigDict(extra="forbid")


def asked(model: type[Q], request: web.Request) -> Q:
    """What the fence has checked already."""
    query = request[QUERY]
    assert isinstance(query, model)
    return query


async def told(model: type[Q], request: web.Request) -> Q:
    """The body; none is an empty object."""
    try:
        return model.model_validate_json(await request.read() or b"{}")
    except ValidationError as wrong:
        raise Refused(400, "The body is not right.", "Correct those named under errors.", errors=wrongs(wrong)) from None


def result_id(request: web.Request) -> str:
    """Of the address; what cannot be one is LookupError."""
    id_ = request.match_info["id"]
    if not RESULT_ID.fullmatch(id_):
        raise LookupError(id_)
    return id_
