"""rejudge, republish, outbox, quarantine, audit, cameras: asked of the running daemon over HTTP; what changes something needs a token."""

from __future__ import annotations

import argparse
import json
import time
import urllib.parse
from uuid import UUID

from edged.cli.remote import Client, Json, Told, client
from edged.errors import EdgedError


class Ambiguous(EdgedError):  # noqa: N818 - it names what was said
    """A name that several judged files have, or none."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def rejudge(args: argparse.Namespace) -> int:
    """Waits for the result unless told not to; exit 1 when it has not come in time."""
    ask = client(args)
    id_ = _id_of(ask, args.image)
    answer = ask(f"/api/v1/results/{id_}/rejudge", {"recipe": args.recipe} if args.recipe else {})
    return _await(ask, answer, args)


def republish(args: argparse.Namespace) -> int:
    answer = client(args)(f"/api/v1/results/{urllib.parse.quote(args.id)}/republish", {})
    print(json.dumps(answer) if args.json else f"{answer['id']}: its message is sent once more.")
    return 0


def outbox(args: argparse.Namespace) -> int:
    """What waits for delivery; `retry` sends what is parked once more. Exit 1 when something is parked."""
    ask = client(args)
    if args.action == "retry":
        answer = ask("/api/v1/outbox/retry", {})
        print(json.dumps(answer) if args.json else f"{answer['due']} parked messages are due again.")
        return 0
    answer = ask("/api/v1/outbox?limit=500")
    if args.json:
        print(json.dumps(answer))
    else:
        oldest = f", the oldest for {answer['oldest_s']:.0f} s" if answer["oldest_s"] is not None else ""
        print(f"{answer['undelivered']} wait for delivery{oldest}: " + ", ".join(f"{n} {state}" for state, n in answer["rows"].items()))
        for row in answer["parked"]:
            print(f"{row['parked']}  parked  {row['kind']} {row['sequence']}  {row['id']}  {row['topic']}  {row['reason']}")
    return 1 if answer["rows"]["parked"] else 0


def quarantine(args: argparse.Namespace) -> int:
    """Lists rejected images; `release` judges the kept copy of one again."""
    if (args.action == "release") != (args.id is not None):
        args.wrong("the id of the image is given with release, and only with it: edged quarantine release ID")
    ask = client(args)
    if args.action == "release":
        return _await(ask, ask(f"/api/v1/quarantine/{urllib.parse.quote(args.id)}/release", {}), args)
    images, after = list[Json](), ""
    while len(images) < args.n:
        page = ask(f"/api/v1/quarantine?limit={min(args.n - len(images), 500)}{after}")
        images += page["images"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    if args.json:
        print(json.dumps({"images": images}))
        return 0
    for row in images:
        state = "is being judged again" if row["released"] else "kept" if row["kept"] else "no copy any more"
        print(f"{row['decided']}  {row['id']}  {row['camera']:10} {row['name']:40} {row['bytes']:>10} bytes  {row['reason']}  {state}")
    if not images:
        print("No image is rejected.")
    return 0


def cameras(args: argparse.Namespace) -> int:
    """pause, resume."""
    facts = client(args)(f"/api/v1/cameras/{urllib.parse.quote(args.name, safe='')}/{args.verb}", {})
    print(json.dumps(facts) if args.json else f"camera {facts['name']}: {facts['held'] or 'goes on'}")
    return 0


def audit(args: argparse.Namespace) -> int:
    answer = client(args)(f"/api/v1/audit?limit={min(args.n, 500)}")
    for row in answer["changes"]:
        if args.json:
            print(json.dumps(row))
        else:
            states = " -> ".join(json.dumps(state) for state in (row["before"], row["after"]) if state is not None)
            print(f"{row['at']}  {row['who']} ({row['role']})  {row['what']}  {row['target']}  {states}")
    return 0


def _await(ask: Client, answer: Json, args: argparse.Namespace) -> int:
    id_, until = answer["id"], time.monotonic() + args.wait
    said = f"{answer['camera']} {answer['name']}: judgement {answer['judgement']}, {id_}"
    while time.monotonic() < until:
        try:
            data = ask(f"/api/v1/results/{id_}")["data"]
        except Told as refused:
            if refused.status != 404:  # it is not recorded yet
                raise
            time.sleep(0.2)
            continue
        verdict = {"verdict": data["verdict"], "reason": data["reason"]}
        print(json.dumps({**answer, **verdict, "state": "recorded"}) if args.json else f"{said}: {data['verdict']}  {data['reason']}")
        return 0
    print(json.dumps(answer) if args.json else f"{said}: asked for, not recorded yet; edged trace tells when it is.")
    return 1 if args.wait > 0 else 0


def _id_of(ask: Client, image: str) -> str:
    """A result's id as it is; of a name the newest result of the one file that has it."""
    try:
        return str(UUID(image))
    except ValueError:
        entries = ask("/api/v1/trace?name=" + urllib.parse.quote(image))["entries"]
    found = {(entry["camera"], entry["name"]): entry["id"] for entry in entries if entry.get("id")}
    if not found:
        raise Ambiguous(f"no judged image is named {image}", "edged trace tells what is known of a name.")
    if len(found) > 1:
        names = "; ".join(f"{camera} {name}: {id_}" for (camera, name), id_ in found.items())
        raise Ambiguous(f"{len(found)} judged images are named {image}", f"Name one by its id: {names}.")
    return str(next(iter(found.values())))
