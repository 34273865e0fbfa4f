"""status, tail and trace: asked of the running daemon over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import time
import urllib.parse
from pathlib import Path
from typing import Any, Protocol

from edged.cli import DEFAULT_CONFIG
from edged.configfiles import read
from edged.errors import ConfigError, Unavailable

Json = dict[str, Any]
TIMEOUT_S = 10.0


def status(args: argparse.Namespace) -> int:
    """Exit 1 when something is wrong, so that a script may ask too."""
    answer = client(args)("/api/v1/status")
    overall = answer["health"]["overall"]
    if args.json:
        print(json.dumps(answer))
        return 0 if overall["status"] == "ok" else 1
    print(f"{overall['status'].upper()}: {overall['cause']}")
    if overall["hint"]:
        print(f"  do: {overall['hint']}")
    for item in answer["health"]["items"]:
        print(f"  {item['status']:9} {item['name']:20} {item['cause']}")
    for camera in answer["cameras"]:
        last = f"last {camera['last_name']} at {camera['last_seen']}" if camera["last_name"] else "no image yet"
        print(f"  camera {camera['name']}: {camera['waiting']} waiting, {camera['in_flight']} under way, {last}")
        if camera.get("held"):
            print(f"    its images wait: {camera['held']}")
        for file in camera["writing"][:5]:
            print(f"    {file['name']}: {file.get('why') or 'still being written'} since {file['since']}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in answer["verdicts"].items())
    print(f"  since the start: {counts}; waiting for delivery: {answer['outbox']['undelivered']}")
    return 0 if overall["status"] == "ok" else 1


def tail(args: argparse.Namespace) -> int:
    """Prints results in the order of their sequence, oldest first."""
    ask = client(args)
    rows: list[Json] = ask(f"/api/v1/results?limit={max(args.n, 1)}")["results"]
    last = 0
    while True:
        for row in sorted(rows, key=lambda row: int(row["sequence"])):
            if int(row["sequence"]) > last:
                last = int(row["sequence"])
                print(json.dumps(row) if args.json else _line(row), flush=True)
        if args.once:
            return 0
        time.sleep(0.5)
        rows = ask("/api/v1/results?limit=200")["results"]


def trace(args: argparse.Namespace) -> int:
    """Exit 1 when nothing is known of the name."""
    wanted = {key: value for key, value in (("name", args.name), ("lot", args.lot)) if value is not None}
    answer = client(args)("/api/v1/trace?" + urllib.parse.urlencode(wanted))
    if args.json:
        print(json.dumps(answer))
    else:
        for entry in answer["entries"]:
            facts = " ".join(f"{k}={v}" for k, v in entry.items() if k not in ("time", "since", "what") and v is not None)
            print(f"{entry.get('time') or entry.get('since') or '-':27} {entry.get('what', ''):12} {facts}")
        if not answer["entries"]:
            seen = f"lot {args.lot}: no result names it" if args.name is None else f"{args.name}: no such file was seen in a watched folder"
            print(f"Nothing is known of {seen}.")
    return 0 if answer["entries"] else 1


def _line(row: Json) -> str:
    return f"{row['decided']}  {row['verdict']:6} {row['camera']:10} {row['name']:40} {row['reason']}"


class Client(Protocol):
    def __call__(self, path: str, send: Json | None = None) -> Json:
        """The answer to GET, or to POST with a body. Raises Told with the problem's status, or Unavailable."""


class Told(Unavailable):
    """The daemon refuses: `status`, and its own words."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__("the daemon's answer", str(problem.get("detail") or problem.get("title")), str(problem.get("hint") or ""))
        self.status = status


def client(args: argparse.Namespace) -> Client:
    base = args.url or _address(args.config)
    where = urllib.parse.urlsplit(base)
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    headers = {"Accept": "application/json"}
    if args.token_file:
        headers["Authorization"] = f"Bearer {_token(args.token_file)}"

    def ask(path: str, send: Json | None = None) -> Json:
        body = None if send is None else json.dumps(send)
        more = {} if body is None else {"Content-Type": "application/json"}
        try:
            with contextlib.closing(kind(where.netloc, timeout=TIMEOUT_S)) as connection:
                connection.request("GET" if body is None else "POST", where.path.rstrip("/") + path, body, headers | more)
                answer = connection.getresponse()
                text = answer.read()
                speaks = answer.headers.get_content_type() in ("application/json", "application/problem+json")
                found: Json = json.loads(text) if speaks else {"title": answer.reason}
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"the daemon at {base}", cause, "See whether it runs: systemctl status edged.") from None
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise Told(answer.status, found)
        if not speaks:
            raise Unavailable(f"the daemon at {base}", "another program answers there", "Correct --url, or [http] bind.")
        return found

    return ask


def _token(file: Path) -> str:
    try:
        words = file.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"the token file {file}", getattr(error, "strerror", None) or "it is not plain text") from None
    if len(words) != 1:
        raise Unavailable(f"the token file {file}", f"it holds {len(words)} words", "It must hold the token and nothing else.")
    return words[0]


def _address(file: Path | None) -> str:
    """The sections are not loaded for it: that would take longer than the daemon's answer."""
    data, _, problems = read(file or DEFAULT_CONFIG)
    if file is not None and problems:
        raise ConfigError(problems)
    told = data.get("http")
    section = told if isinstance(told, dict) else {}
    return f"{'https' if section.get('tls_cert') else 'http'}://{section.get('bind', '127.0.0.1:9180')}"
