"""check-config, identify, schema: what needs neither peers nor a running daemon."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from edged.cli import DEFAULT_CONFIG
from edged.config import Camera, Config, Protocol, load
from edged.errors import ConfigError, ConfigProblem
from edged.intake import identify_file, is_network
from edged.nouns import display_name
from edged.plant.messages import result_schema


def check_config(args: argparse.Namespace) -> int:
    """Prints what the configuration will do, and warnings; every mistake is a ConfigError."""
    file = args.config or DEFAULT_CONFIG
    config = load(file)
    if what := is_network(config.station.state_dir):
        raise ConfigError(
            [
                ConfigProblem(
                    str(file),
                    "station.state_dir",
                    f"{config.station.state_dir} lies on {what}",
                    "the ledger needs a local file system",
                )
            ]
        )
    warnings = list(_warnings(config))
    if args.json:
        print(json.dumps({"ok": True, "warnings": warnings, "topic_base": config.topic_base, "source": config.station.source}))
        return 0
    print(f"{file}: the configuration is valid.")
    print(f"  publishes below {config.topic_base} as {config.station.source}")
    for camera in config.camera:
        print(f"  camera {camera.name}: {camera.folder} -> recipe {camera.recipe}, afterwards {camera.after}")
    for warning in warnings:
        print(f"  warning: {warning}")
    return 0


def _warnings(config: Config) -> Iterator[str]:
    for camera in config.camera:
        if not camera.folder.is_dir():
            yield f"camera {camera.name}: the folder {camera.folder} does not exist (yet); its images are judged once it does"
        elif not os.access(camera.folder, os.R_OK | os.X_OK):
            yield f"camera {camera.name}: the folder {camera.folder} cannot be read by this user"
        if camera.after != "keep" and camera.folder.is_dir() and not os.access(camera.folder, os.W_OK):
            yield f"camera {camera.name}: after = {camera.after}, but {camera.folder} cannot be written; files will stay"
        if not camera.identity:
            yield f"camera {camera.name}: no identity sources, so every PASS becomes REVIEW (identity incomplete)"
    for first, second in _overlaps(config.camera):
        yield f"cameras {first} and {second} watch the same files; {first} gets those that match both"
    if config.mqtt.protocol is Protocol.V311:
        yield "mqtt.protocol is 3.1.1: a broker cannot say that it refused a message, so a refusal is invisible"


def _overlaps(cameras: tuple[Camera, ...]) -> Iterator[tuple[str, str]]:
    for i, first in enumerate(cameras):
        for second in cameras[i + 1 :]:
            inside = first.recursive and second.folder.is_relative_to(first.folder)
            around = second.recursive and first.folder.is_relative_to(second.folder)
            if (first.folder == second.folder or inside or around) and set(first.include) & set(second.include):
                yield first.name, second.name


def identify(args: argparse.Namespace) -> int:
    """One block a file; exit 1 when a file's identity is incomplete."""
    cameras = load(args.config or DEFAULT_CONFIG).camera
    complete = True
    for name in args.files:
        camera = pick_camera(cameras, Path(name), args.camera)
        path = Path(name)
        relative = path.relative_to(camera.folder) if path.is_relative_to(camera.folder) else Path(path.name)
        identity = identify_file(camera, os.fsencode(relative), path if path.exists() else None)
        complete = complete and identity.material.complete
        found = {k: v for k, v in {**asdict(identity.material), **asdict(identity.die)}.items() if v is not None}
        found |= {k: str(v) for k in ("recipe", "chamber", "job_id", "operator", "acquired") if (v := getattr(identity, k)) is not None}
        if args.json:
            print(json.dumps({"file": display_name(os.fsencode(name)), "camera": camera.name, **found}))
        else:
            source = found.pop("from_", None)
            missing = "" if identity.material.complete else "  (incomplete: lot or wafer unknown)"
            print(f"{display_name(os.fsencode(name))}: camera {camera.name}, by {source or 'no source'}{missing}")
            for key, value in found.items():
                if key != "complete":
                    print(f"    {key:10} {value}")
    return 0 if complete else 1


def pick_camera(cameras: tuple[Camera, ...], file: Path, name: str | None) -> Camera:
    """The camera asked for, or whose folder the file lies in, or the first."""
    if name is not None:
        found = next((camera for camera in cameras if camera.name == name), None)
        if found is None:
            known = ", ".join(camera.name for camera in cameras)
            raise ConfigError([ConfigProblem("--camera", name, "there is no such camera", f"there are {known}")])
        return found
    return next((camera for camera in cameras if file.absolute().is_relative_to(camera.folder)), cameras[0])


def schema(args: argparse.Namespace) -> int:
    print(json.dumps(result_schema(), indent=None if args.json else 2))
    return 0
