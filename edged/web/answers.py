"""Answers of the HTTP door: JSON, problem details (RFC 9457), and the headers that every answer carries."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import web

from edged.errors import EdgedError
from edged.nouns import utc_text

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Server": "edged",
}


class Refused(EdgedError):  # noqa: N818 - it names what becomes of the request
    """The request is answered with a problem: `status`, one sentence of `detail`, and `hint`, what to do. `kind`: its type, where the
    status alone says too little."""

    def __init__(
        self,
        status: int,
        detail: str,
        hint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        kind: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        self.errors = tuple(errors)
        self.kind = kind


def plain(value: Any) -> Any:
    """The value as JSON knows it: datetimes as text, dataclasses as objects, NaN and infinities as null."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"no JSON form for {type(value).__name__}")


def as_json(value: Any, status: int = 200) -> web.Response:
    body = json.dumps(plain(value), ensure_ascii=False, allow_nan=False).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers={"Cache-Control": "no-store"})


def as_text(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, headers={"Cache-Control": "no-store"})


def problem(instance: str, refused: Refused) -> web.Response:
    """RFC 9457. `instance` is the request's path; nothing of the file system and no stack trace is ever in it."""
    phrase = HTTPStatus(refused.status).phrase
    body: dict[str, Any] = {
        "type": f"urn:edged:problem:{refused.kind or phrase.lower().replace(' ', '-')}",
        "title": phrase,
        "status": refused.status,
        "detail": refused.detail,
        "instance": instance,
    }
    if refused.hint:
        body["hint"] = refused.hint
    if refused.errors:
        body["errors"] = list(refused.errors)
    answer = web.Response(
        status=refused.status, body=json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), content_type="application/problem+json"
    )
    answer.headers.update({"Cache-Control": "no-store", **SECURITY_HEADERS, **refused.headers})
    return answer
