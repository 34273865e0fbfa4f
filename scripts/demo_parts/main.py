"""The demo: starts a station, plays a tool, listens as the MES would, and accounts for every image."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from mes import Mes
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from station import ROOT, Station
from tool import Expected, Tool

DRAIN_S = 90.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="A simulated tool, the real Triton, broker and daemon, and a small MES."
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="N", help="how long the tool drops images (default 30)")
    parser.add_argument("--rate", type=float, default=6.0, metavar="PER_S", help="images per second, bursts apart (default 6)")
    parser.add_argument("--keep", action="store_true", help="keep the folders, the ledger and the logs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="edged-demo-"))
    console = Console(highlight=False)
    began = time.monotonic()
    try:
        with Station(home) as station:
            started_s = time.monotonic() - began
            console.print(f"Triton, the broker and edged run after {started_s:.1f} s. Status page: {station.http}/", style="bold")
            report = play(station, args, console, started_s=started_s)
    finally:
        if args.keep:
            console.print(f"Kept: {home} (drop folders, edged.toml, state/ with the ledger, logs)")
        else:
            shutil.rmtree(home, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    show(report, console)
    return 0 if report["lost"] == 0 and report["doubled"] == 0 and report["schema_errors"] == 0 and report["unexpected"] == 0 else 1


def play(station: Station, args: argparse.Namespace, console: Console, started_s: float) -> dict[str, Any]:
    """Everything between the first drop and the last message."""
    schema = json.loads(_edged("schema", "--json"))
    mes = Mes(station.broker_port, "demo/fab/litho/INSP01/edged/v1", schema, lambda line: console.print(line, markup=False, soft_wrap=True))
    tool = Tool(station.dies, station.maps, ROOT / "tests" / "data")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} drops"), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("the tool drops images", total=max(6, int(args.seconds * args.rate)))
        asyncio.run(tool.play(args.seconds, args.rate, lambda done: progress.update(task, completed=done)))
        progress.update(task, description="waiting for the last messages")
        deadline = time.monotonic() + DRAIN_S
        while missing(tool.expected, mes) and time.monotonic() < deadline:
            time.sleep(0.1)
        took_s = time.monotonic() - began
        time.sleep(1.0)  # a message too many would come now
    report = account(tool.expected, mes, _puback_times(station.ledger), took_s)
    mes.close()
    return {"start_s": round(started_s, 1), **report}


def _key(expected: Expected) -> tuple[str, str, str]:
    return expected.camera, expected.drop.path.name, expected.drop.sha256


def missing(expected: list[Expected], mes: Mes) -> list[Expected]:
    got = {(result.camera, result.name, result.sha256) for result in mes.results}
    return [item for item in expected if _key(item) not in got]


def account(expected: list[Expected], mes: Mes, puback: dict[str, float], took_s: float) -> dict[str, Any]:
    """Lost: a drop without a message. Doubled: a drop under two ids. Unexpected: a message for something never dropped so."""
    first = {result.id: result for result in mes.results}
    ids = Counter((result.camera, result.name, result.sha256) for result in first.values())
    wanted = {_key(item): item for item in expected}
    lost = missing(expected, mes)
    wrong = [
        f"{result.name}: {result.verdict} {result.reason}"
        for result in first.values()
        if (item := wanted.get((result.camera, result.name, result.sha256))) is None
        or (result.verdict == "ERROR") != (item.damage is not None)
    ]
    bodies = {result.id: result.body for result in mes.results}
    torn = sum(result.body != bodies[result.id] for result in mes.results)
    latency = [
        (puback[result.id] - item.drop.at) * 1000
        for result in first.values()
        if result.id in puback and (item := wanted.get((result.camera, result.name, result.sha256))) and item.damage is None
    ]
    return {
        "dropped": len(expected),
        "judged": sum(result.verdict != "ERROR" for result in first.values()),
        "published": len(first),
        "repeated_under_the_same_id": len(mes.results) - len(first),
        "rejected": dict(Counter(result.reason for result in first.values() if result.verdict == "ERROR")),
        "verdicts": dict(Counter(result.verdict for result in first.values())),
        "lost": len(lost),
        "lost_names": [item.drop.path.name for item in lost][:20],
        "doubled": sum(count > 1 for count in ids.values()) + torn,
        "unexpected": len(wrong),
        "unexpected_messages": wrong[:20],
        "schema_errors": len(mes.schema_errors),
        "latency_ms": {f"p{p}": round(float(np.percentile(latency, p)), 1) for p in (50, 95, 99)} if latency else {},
        "images_per_s": round(len(first) / took_s, 1),
        "seconds": round(took_s, 1),
    }


def _puback_times(ledger: Path) -> dict[str, float]:
    """When the broker acknowledged each result, from the ledger: id -> wall clock (s)."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        # Told by the ledger's own tables: state 4 is delivered.
        return dict(
            db.execute("SELECT m.id, o.at FROM outbox o JOIN message m ON m.message = o.message WHERE m.kind = 'result' AND o.state = 4")
        )


def show(report: dict[str, Any], console: Console) -> None:
    table = Table(title="What became of every image", show_header=False)
    latency = report["latency_ms"]
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(report["rejected"].items())) or "none"
    rows: list[tuple[str, str]] = [
        ("dropped", str(report["dropped"])),
        ("judged", f"{report['judged']}  ({', '.join(f'{n} {v}' for v, n in sorted(report['verdicts'].items()) if v != 'ERROR')})"),
        ("published", str(report["published"])),
        ("rejected", rejected),
        ("lost", f"{report['lost']}  {' '.join(report['lost_names'])}"),
        ("doubled", str(report["doubled"])),
        ("not as expected", f"{report['unexpected']}  {'; '.join(report['unexpected_messages'])}"),
        ("schema errors", str(report["schema_errors"])),
        ("drop -> PUBACK", "  ".join(f"{name} {value:g} ms" for name, value in latency.items()) or "-"),
        ("images/s", f"{report['images_per_s']}  (paced by the tool, over {report['seconds']} s)"),
        ("start", f"{report['start_s']} s"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _edged(*arguments: str) -> str:

    return subprocess.run([Path(sys.executable).with_name("edged"), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
