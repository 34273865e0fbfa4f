"""status, tail and trace: asked of the running daemon over HTTP."""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from edged.cli import DEFAULT_CONFIG
from edged.config import load
from edged.errors import ConfigError, Unavailable

Json = dict[str, Any]


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
    get = client(args)
    rows: list[Json] = get(f"/api/v1/results?limit={max(args.n, 1)}")["results"]
    last = 0
    while True:
        for row in sorted(rows, key=lambda row: int(row["sequence"])):
            if int(row["sequence"]) > last:
                last = int(row["sequence"])
                print(json.dumps(row) if args.json else _line(row), flush=True)
        if args.once:
            return 0
        time.sleep(0.5)
        rows = get("/api/v1/results?limit=200")["results"]


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


def act(args: argparse.Namespace, path: str) -> Json:
    """POSTs to the running daemon, with the token that a change of its state needs."""
    return client(args)(path, {})


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
    headers = {"Accept": "application/json"}
    if args.token_file:
        headers["Authorization"] = "Bearer " + args.token_file.read_text().strip()

    def get(path: str, send: Json | None = None) -> Json:
        body = None if send is None else json.dumps(send).encode()
        more = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(base + path, body, headers | more)  # noqa: S310 - http(s)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                found: Json = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise Told(error.code, json.load(error) if "json" in error.headers.get_content_type() else {"title": error.reason}) from None
        except (OSError, ValueError) as error:
            cause = getattr(error, "reason", error)
            raise Unavailable(f"the daemon at {base}", str(cause), "See whether it runs: systemctl status edged.") from None

    return get


def _address(config: Path | None) -> str:
    try:
        http = load(config or DEFAULT_CONFIG).http
    except ConfigError:
        if config is not None:
            raise
        return "http://127.0.0.1:9180"
    return f"{'https' if http.tls_cert else 'http'}://{http.bind}"
