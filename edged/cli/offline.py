"""identify, schema: what needs neither peers nor a running daemon."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from edged.cli import DEFAULT_CONFIG
from edged.config import Camera, load
from edged.errors import ConfigError, ConfigProblem
from edged.intake import identify_file
from edged.nouns import Identity, display_name, utc_text
from edged.plant.messages import result_schema


def identify(args: argparse.Namespace) -> int:
    """One block a file; exit 1 when a file's identity is incomplete."""
    cameras = load(args.config or DEFAULT_CONFIG).camera
    complete = True
    for name in args.files:
        camera = pick_camera(cameras, Path(name), args.camera)
        path, folder = _absolute(Path(name)), _absolute(camera.folder)
        relative = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        remark = _remark(path)
        identity = identify_file(camera, os.fsencode(relative), None if remark else path)
        complete = complete and identity.material.complete
        _print(display_name(os.fsencode(name)), camera, _found(identity), remark, as_json=args.json)
    return 0 if complete else 1


def _found(identity: Identity) -> dict[str, Any]:
    """What is known, by the names that an identity source gives it."""
    material, die = identity.material, identity.die
    fields = ("lot_id", "wafer_id", "slot", "carrier_id", "product", "step", "complete")
    found = {"from": material.from_, **{key: getattr(material, key) for key in fields}}
    found |= {"die_x": die.x, "die_y": die.y, "site": die.site}
    found |= {key: getattr(identity, key) for key in ("recipe", "chamber", "job_id", "operator")}
    found["acquired"] = utc_text(identity.acquired) if identity.acquired else None
    return {key: value for key, value in found.items() if value is not None}


def _remark(path: Path) -> str | None:
    if os.path.isfile(path):  # noqa: PTH113 - never raises, also where this user may not look
        return None
    there = "a directory, no image" if os.path.isdir(path) else "no such file"  # noqa: PTH112
    return f"{there}: only its name was read"


def _print(name: str, camera: Camera, found: dict[str, Any], remark: str | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": name, "camera": camera.name, **found, **({"remark": remark} if remark else {})}))
        return
    missing = "" if found["complete"] else "  (incomplete: lot or wafer unknown)"
    print(f"{name}: camera {camera.name}, by {found.get('from', 'no source')}{missing}{f'  ({remark})' if remark else ''}")
    for key, value in found.items():
        if key not in ("from", "complete"):
            print(f"    {key:10} {value}")


def pick_camera(cameras: tuple[Camera, ...], file: Path, name: str | None) -> Camera:
    """The camera asked for, or whose folder the file lies in, or the first."""
    if name is not None:
        found = next((camera for camera in cameras if camera.name == name), None)
        if found is None:
            known = ", ".join(camera.name for camera in cameras)
            raise ConfigError([ConfigProblem("--camera", name, "there is no such camera", f"there are {known}")])
        return found
    return next((camera for camera in cameras if _absolute(file).is_relative_to(_absolute(camera.folder))), cameras[0])


def _absolute(path: Path) -> Path:
    """Without `..` and without following links: as a camera names its files."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def schema(args: argparse.Namespace) -> int:
    print(json.dumps(result_schema(), indent=None if args.json else 2))
    return 0
