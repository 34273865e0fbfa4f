"""Reads `edged.toml`, its drop-ins and `EDGED_*`; reports every problem with the file and key it stands in, and the key that was meant."""

from __future__ import annotations

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edged.config.root import Config
from edged.errors import ConfigError, ConfigProblem

Where = dict[tuple[str, ...], str]
"""Which file a key came from, by its path; list positions count as keys."""


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `path`, its drop-ins `{path}.d/*.toml` in name order, then `EDGED_SECTION__KEY` (TOML values).

    Raises ConfigError with all problems at once.
    """
    problems: list[ConfigProblem] = []
    where: Where = {}
    data: dict[str, Any] = {}
    files = [path, *sorted(path.with_name(path.name + ".d").glob("*.toml"))]
    for file in files:
        _merge(data, _read(file, problems), (), str(file), where)
    return _validated(data, environ, where, problems, str(path))


def from_data(data: dict[str, Any], environ: Mapping[str, str] = os.environ) -> Config:
    """A configuration without a file: `data`, then the environment. Raises ConfigError like `load`."""
    where: Where = {}
    merged: dict[str, Any] = {}
    _merge(merged, data, (), "built in", where)
    return _validated(merged, environ, where, [], "built in")


def _validated(data: dict[str, Any], environ: Mapping[str, str], where: Where, problems: list[ConfigProblem], default: str) -> Config:
    _merge_environment(data, environ, where, problems)
    if problems:
        raise ConfigError(problems)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_problems(error, where, default)) from None


def _read(file: Path, problems: list[ConfigProblem]) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        problems.append(ConfigProblem(str(file), "-", "the file does not exist", "give its path with --config"))
    except OSError as error:
        problems.append(ConfigProblem(str(file), "-", f"the file cannot be read: {error.strerror}"))
    except UnicodeDecodeError:
        problems.append(ConfigProblem(str(file), "-", "the file is not UTF-8"))
    except tomllib.TOMLDecodeError as error:
        problems.append(ConfigProblem(str(file), "-", f"not valid TOML: {error}"))
    return {}


def _merge(into: dict[str, Any], data: Mapping[str, Any], at: tuple[str, ...], source: str, where: Where) -> None:
    """Tables merge key by key; `[[camera]]` and `[[recipe]]` of a drop-in are appended, any other value is replaced."""
    for key, value in data.items():
        here = (*at, key)
        where.setdefault(here, source)
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value, here, source, where)
        elif key in ("camera", "recipe") and not at and isinstance(value, list):
            items = into.setdefault(key, [])
            for item in value:
                where[(*here, str(len(items)))] = source
                items.append(item)
        else:
            into[key] = value
            where[here] = source


def _merge_environment(data: dict[str, Any], environ: Mapping[str, str], where: Where, problems: list[ConfigProblem]) -> None:
    for name, text in sorted(environ.items()):
        if not name.startswith("EDGED_") or "__" not in name:
            continue
        section, _, key = name.removeprefix("EDGED_").lower().partition("__")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a string
        if not isinstance(table := data.setdefault(section, {}), dict):
            problems.append(ConfigProblem(f"environment {name}", section, "lists cannot be set by environment"))
            continue
        table[key] = value
        where[(section, key)] = f"environment {name}"


def _problems(error: ValidationError, where: Where, default: str) -> list[ConfigProblem]:
    found = []
    for item in error.errors():
        loc = tuple(str(part) for part in item["loc"])
        source = next((where[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in where), default)
        hint, problem = "", item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "unknown key"
            near = difflib.get_close_matches(loc[-1], _keys_at(loc[:-1]), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(_keys_at(loc[:-1])))}"
        elif item["type"] == "missing":
            problem = "this key is required"
        elif item["type"] != "value_error":
            problem = f"{problem}, but it is {item['input']!r:.80}"
        found.append(ConfigProblem(source, ".".join(loc) or "-", problem, hint))
    return found


def _keys_at(loc: tuple[str, ...]) -> list[str]:
    """The keys the model at `loc` knows."""
    model: Any = Config
    for part in loc:
        if part.isdigit():
            continue
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = _model_in(field.annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The section inside `tuple[Section, ...]` or `Section | None`."""
    if typing.get_origin(annotation) in (tuple, list, typing.Union, types.UnionType):
        return next((m for m in map(_model_in, typing.get_args(annotation)) if m is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
