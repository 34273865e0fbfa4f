"""Reads `edged.toml`, its drop-ins and `EDGED_*` into one table, and remembers where each key came from. Nothing is checked here.

Apart from the sections, so that a command that needs an address only does not load them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edged.errors import ConfigProblem

Where = dict[tuple[str, ...], str]
"""Which file a key came from, by its path; list positions count as keys."""


def read(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[dict[str, Any], Where, list[ConfigProblem]]:
    """`path`, its drop-ins `{path}.d/*.toml` in name order, then `EDGED_SECTION__KEY` (TOML values)."""
    problems: list[ConfigProblem] = []
    where: Where = {}
    data: dict[str, Any] = {}
    for file in [path, *sorted(path.with_name(path.name + ".d").glob("*.toml"))]:
        _merge(data, _read(file, problems), (), str(file), where)
    _merge_environment(data, environ, where, problems)
    return data, where, problems


def built_in(data: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> tuple[dict[str, Any], Where, list[ConfigProblem]]:
    """Without a file: `data`, then the environment."""
    problems: list[ConfigProblem] = []
    where: Where = {}
    merged: dict[str, Any] = {}
    _merge(merged, data, (), "built in", where)
    _merge_environment(merged, environ, where, problems)
    return merged, where, problems


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
            if not isinstance(into.get(key), dict):  # a table where another file has a list: the section says what it must be
                into[key], where[here] = {}, source
            _merge(into[key], value, here, source, where)
        elif key in ("camera", "recipe") and not at and isinstance(value, list):
            if not isinstance(items := into.setdefault(key, []), list):
                items = into[key] = []
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
        if section not in data:
            where[(section,)] = f"environment {name}"
        if not isinstance(table := data.setdefault(section, {}), dict):
            problems.append(ConfigProblem(f"environment {name}", section, "lists cannot be set by environment"))
            continue
        table[key] = value
        where[(section, key)] = f"environment {name}"
