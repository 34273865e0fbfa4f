"""scripts/evaluate MODEL --model DIR --data DIR [--write FILE.jsonl] [--json]: measures a model package on labelled images."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

MODELS = ("wafer_pattern", "die_defect")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/evaluate", description="Measures a model package on the labelled images of DIR.")
    parser.add_argument("name", choices=MODELS, metavar="MODEL", help=" | ".join(MODELS))
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the package, e.g. model_repository/NAME__1")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the labelled images")
    parser.add_argument("--write", type=Path, metavar="FILE.jsonl", help="one line per image as `edged infer --json` prints it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    wanted = parser.parse_args()
    try:
        report = importlib.import_module(wanted.name).evaluate(wanted.model, wanted.data, wanted.write)
    except (OSError, ValueError) as error:
        print(f"scripts/evaluate: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report) if wanted.json else _table(report))
    return 0


def _table(report: dict[str, Any]) -> str:
    """The plain figures, then one row per class."""
    lines = [f"{key:<12} {value}" for key, value in report.items() if not isinstance(value, (dict, list))]
    for name, row in report.get("per_class", {}).items():
        lines.append(f"  {name:<18}" + "  ".join(f"{key} {value}" for key, value in row.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
