"""db check, backup, vacuum: of the ledger's file itself, by the configuration's state_dir."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from edged.cli import DEFAULT_CONFIG
from edged.config import load
from edged.ledger import Inspection, backup, inspect, vacuum


def db(args: argparse.Namespace) -> int:
    state = load(args.config or DEFAULT_CONFIG).station.state_dir
    began = time.monotonic()
    if args.verb == "check":
        return _check(args, state)
    if args.verb == "backup":
        size = backup(state, args.file.absolute(), force=args.force)
        _say(args, f"The ledger is copied to {args.file} ({size:,} bytes).", {"file": str(args.file.absolute()), "bytes": size}, began)
    else:
        before, after = vacuum(state)
        _say(args, f"The ledger had {before:,} bytes and has {after:,}.", {"bytes_before": before, "bytes_after": after}, began)
    return 0


def _check(args: argparse.Namespace, state: Path) -> int:
    """Exit 1 when something is wrong."""
    began = time.monotonic()
    found = inspect(state, rebuild=args.rebuild)
    facts = {"ledger": str(found.path), "ok": not found.problems, "problems": list(found.problems), **found.counts}
    _say(args, _told(found), {**facts, "next_start_rebuilds": found.distrusted}, began)
    return 1 if found.problems else 0


def _told(found: Inspection) -> str:
    if not found.problems:
        counts = ", ".join(f"{count:,} {what}" for what, count in found.counts.items())
        return f"The ledger {found.path} is whole: {counts}."
    if found.distrusted:
        do = "Restart the daemon: it sets the file aside and rebuilds it."
    else:
        do = "Have it rebuilt: `edged db check --rebuild`, then restart the daemon, which sets the file aside."
    return "\n".join((f"The ledger {found.path} is damaged.", *(f"  {problem}" for problem in found.problems), f"  do: {do}"))


def _say(args: argparse.Namespace, text: str, facts: dict[str, Any], began: float) -> None:
    print(json.dumps({**facts, "took_s": round(time.monotonic() - began, 3)}) if args.json else text)
