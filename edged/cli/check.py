"""check-config: what the configuration will do, what is wrong with it (exit 78), and what will not work as things stand (warnings)."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from edged.cli import DEFAULT_CONFIG
from edged.cli.overlaps import baselines, overlaps
from edged.config import Config, IdentityKind, Protocol, load
from edged.config.problems import near
from edged.errors import ConfigError, ConfigProblem
from edged.intake import template_problem
from edged.mounts import is_network
from edged.web.auth import Tokens

EXIT_CONFIG = 78  # EX_CONFIG, as `edged` itself ends with a ConfigError


def check_config(args: argparse.Namespace) -> int:
    """Prints what the configuration will do, and warnings; every mistake is a ConfigError (with --json: printed, exit 78)."""
    file = args.config or DEFAULT_CONFIG
    try:
        config = load(file)
        refuse(config, file)
    except ConfigError as error:
        if not args.json:
            raise
        problems = [{"file": p.source, "key": p.key, "problem": p.problem, "hint": p.hint} for p in error.problems]
        print(json.dumps({"ok": False, "problems": problems}))
        return EXIT_CONFIG
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


def refuse(config: Config, file: Path) -> None:
    """Raises ConfigError for what no section can see by itself and what can never work; for check-config and run alike."""
    problems = []
    if what := is_network(config.station.state_dir):
        says = f"{config.station.state_dir} lies on {what}"
        problems.append(ConfigProblem(str(file), "station.state_dir", says, "the ledger needs a local file system"))
    for i, camera in enumerate(config.camera):
        for j, source in enumerate(camera.identity):
            if source.kind is IdentityKind.PATH_TEMPLATE and (wrong := template_problem(source.pattern or "")):
                says = f"the path template of camera {camera.name} can never match: {wrong}"
                problems.append(ConfigProblem(str(file), f"camera.{i}.identity.{j}.pattern", says))
    problems += _token_problems(config.http.tokens_file, file)
    if problems:
        raise ConfigError(problems)


def _token_problems(path: Path | None, file: Path) -> list[ConfigProblem]:
    """A file that this user may not read is left to the daemon's own user."""
    if path is None:
        return []
    if _missing(path):
        hint = "write it, one token a line: role name token"
        return [ConfigProblem(str(file), "http.tokens_file", f"the file {path} does not exist", hint)]
    if not os.access(path, os.R_OK):
        return []
    try:
        Tokens(path)
    except ConfigError as error:
        return error.problems
    return []


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
    yield from overlaps(config.camera)
    yield from baselines(config)
    yield from _models(config)
    yield from _files(config)
    if config.mqtt.protocol is Protocol.V311:
        yield "mqtt.protocol is 3.1.1: a broker cannot say that it refused a message, so a refusal is invisible"


def _models(config: Config) -> Iterator[str]:
    """A model may still be deployed, so one that is not there holds its recipe and is no mistake by itself."""
    places = [place for place in (config.models.located().repository, config.station.state_dir / "models") if place is not None]
    packages = {path.parent.name for place in places if os.access(place, os.R_OK) for path in place.glob("*__*/manifest.json")}
    known = {package.rpartition("__")[0] for package in packages}
    exact = {":".join(package.rsplit("__", 1)) for package in packages}
    for recipe in config.recipe:
        for model in recipe.models:
            if model not in known | exact:
                hint = near(model, exact if ":" in model else known).rstrip("?")
                says = f"recipe {recipe.name}: this user sees no package of the model {model!r} in {' or '.join(map(str, places))}"
                yield f"{says}; its images wait until there is one{f' ({hint}?)' if hint else ''}"


def _files(config: Config) -> Iterator[str]:
    """Files that are named but cannot be read, by this user at least."""
    named = {f"{section}.{key}": getattr(getattr(config, section), key) for section, keys in _NAMED.items() for key in keys}
    for recipe in config.recipe:
        if recipe.preprocess:
            named[f"recipe {recipe.name}: preprocess.flat_field"] = recipe.preprocess.flat_field
        if recipe.reference:
            named[f"recipe {recipe.name}: reference.store"] = recipe.reference.store
    for key, path in named.items():
        if path is not None and not os.access(path, os.R_OK):
            yield f"{key}: {path} {'does not exist' if _missing(path) else 'cannot be read by this user'}"


def _missing(path: Path) -> bool:
    """False where this user may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


_NAMED = {"mqtt": ("password_file", "ca", "cert", "key"), "http": ("tls_cert", "tls_key", "tokens_file")}
