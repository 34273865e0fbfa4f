"""scripts/train MODEL --data DIR --out DIR [--minutes M]: trains a model and writes its package."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

MODELS = ("wafer_pattern", "die_defect")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/train", description="Trains a model on DIR and writes a model package.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the training data")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the package to write, e.g. model_repository/NAME__1")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="bound of the training loop; default: the run that made the shipped model"
    )
    wanted = parser.parse_args()
    if wanted.minutes is not None and wanted.minutes <= 0:
        parser.error(f"--minutes must be above 0, not {wanted.minutes}")
    try:
        report = importlib.import_module(wanted.model).train(wanted.data, wanted.out, wanted.minutes)
    except (OSError, ValueError) as error:
        print(f"scripts/train: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
