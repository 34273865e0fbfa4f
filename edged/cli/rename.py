"""cameras rename: in the ledger, while no daemon runs."""

from __future__ import annotations

import argparse
import json
from typing import NoReturn

from edged.cli import DEFAULT_CONFIG
from edged.config import load
from edged.errors import ConfigError, ConfigProblem
from edged.ledger import rename_camera


def rename(args: argparse.Namespace) -> int:
    config = load(args.config or DEFAULT_CONFIG)
    names = {camera.name for camera in config.camera}
    if args.new not in names:
        _refuse(args.new, "the configuration has no such camera", f"it has {', '.join(sorted(names))}; rename the camera there first")
    if args.old in names:
        _refuse(args.old, "the configuration still has this camera", "rename it there first")
    try:
        count = rename_camera(config.station.state_dir, args.old, args.new)
    except LookupError:
        _refuse(args.old, "the ledger knows no such camera", "see whether it is spelt as it was in the configuration")
    except ValueError:
        _refuse(args.new, "files are already recorded under this name", "two cameras' pasts cannot be made one")
    facts = {"old": args.old, "new": args.new, "files": count}
    text = f"{count:,} recorded file{'' if count == 1 else 's'} of {args.old} {'is' if count == 1 else 'are'} {args.new}'s now"
    print(json.dumps(facts) if args.json else f"{text}, and will not be judged again. Results already told keep the name {args.old}.")
    return 0


def _refuse(name: str, problem: str, hint: str) -> NoReturn:
    raise ConfigError([ConfigProblem("cameras rename", name, problem, hint)])
