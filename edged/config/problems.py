"""From what the sections refuse to sentences an operator can act on: the file, the key, what is wrong, what was meant. Pure."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from edged.config.root import Config
from edged.configfiles import Where
from edged.errors import ConfigProblem

_MUST = {
    "tuple_type": "this must be a list",
    "list_type": "this must be a list",
    "string_type": "this must be text",
    "path_type": "this must be a path, as text",
    "int_type": "this must be a whole number",
    "int_parsing": "this must be a whole number",
    "int_from_float": "this must be a whole number",
    "float_type": "this must be a number",
    "float_parsing": "this must be a number",
    "bool_type": "this must be true or false",
    "bool_parsing": "this must be true or false",
    "dict_type": "this must be a table",
    "model_type": "this must be a table",
    "model_attributes_type": "this must be a table",
    "enum": "this must be {expected}",
    "literal_error": "this must be {expected}",
    "greater_than_equal": "this must be at least {ge}",
    "greater_than": "this must be above {gt}",
    "less_than_equal": "this must be at most {le}",
    "less_than": "this must be below {lt}",
    "too_short": "this list must have at least {min_length} item(s)",
    "too_long": "this list must have at most {max_length} items",
}


def explained(error: ValidationError, data: Mapping[str, Any], where: Where, default: str) -> list[ConfigProblem]:
    """Every problem of `data`, those between sections included: they are looked for in the raw data, as the sections did not come to it."""
    items = error.errors()
    locs = [tuple(str(part) for part in item["loc"]) for item in items]
    crossing = list(_between_sections(data))
    found = []
    for item, loc in zip(items, locs, strict=True):
        below = any(len(other) > len(loc) and other[: len(loc)] == loc for other in locs)
        if item["type"] == "too_short" and below:
            continue  # the items are there: each says itself what is wrong with it
        if not loc and crossing:
            continue  # the same, without a key
        problem, hint = _sentence(typing.cast("dict[str, Any]", item), loc)
        found.append(ConfigProblem(_source(loc, where, default), ".".join(loc) or "-", problem, hint))
    said = {(problem.key, problem.problem) for problem in found}
    for loc, problem, hint in crossing:
        if (".".join(loc), problem) not in said:
            found.append(ConfigProblem(_source(loc, where, default), ".".join(loc), problem, hint))
    return found


def near(word: object, known: Iterable[str]) -> str:
    """A hint with the known word that was probably meant, or an empty one."""
    folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(str(word).casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[found[0]]!r}?" if found else ""


def model_in(annotation: Any) -> Any:
    """The section inside `tuple[Section, ...]` or `Section | None`."""
    if typing.get_origin(annotation) in (tuple, list, typing.Union, types.UnionType):
        return next((m for m in map(model_in, typing.get_args(annotation)) if m is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _source(loc: tuple[str, ...], where: Where, default: str) -> str:
    return next((where[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in where), default)


def _sentence(item: Mapping[str, Any], loc: tuple[str, ...]) -> tuple[str, str]:
    """(what is wrong, what to write instead)."""
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        known = _keys_at(loc[:-1])
        return "unknown key", near(loc[-1], known) or f"known here: {', '.join(sorted(known))}"
    if kind == "missing":
        return ("the list is too short", "") if loc[-1].isdigit() else ("this key is required", "")
    if kind == "value_error":
        return item["msg"].removeprefix("Value error, "), ""
    must = _MUST[kind].format(**item.get("ctx", {})) if kind in _MUST else item["msg"]
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    hint = near(value, re.findall(r"'([^']*)'", must)) if kind in ("enum", "literal_error") and isinstance(value, str) else ""
    return f"{must}, but it is {shown:.80}", hint


def _between_sections(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What one section says of another, as (key, problem, hint). Values of a wrong type are passed over: their section says so."""
    cameras, recipes = _tables(data.get("camera")), _tables(data.get("recipe"))
    for what, tables in (("camera", cameras), ("recipe", recipes)):
        seen = set[str]()
        for position, table in tables:
            name = table.get("name")
            if not isinstance(name, str):
                continue
            if name in seen:
                yield (what, position, "name"), f"{what} names must differ; doubled: {name}", ""
            seen.add(name)
    known = [name for _, table in recipes if isinstance(name := table.get("name"), str)]
    for position, table in cameras:
        wanted = table.get("recipe")
        if isinstance(wanted, str) and wanted not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there are none"
            problem = f"camera {table.get('name', position)} names the recipe {wanted!r}, which is not there; {there}"
            yield ("camera", position, "recipe"), problem, near(wanted, known)
    for position, table in recipes:
        yield from _within_recipe(("recipe", position), table)


def _within_recipe(at: tuple[str, str], recipe: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    models, weights = recipe.get("models"), recipe.get("weights", [])
    if isinstance(models, list) and isinstance(weights, list):
        if recipe.get("combine") == "weighted" and len(weights) != len(models):
            yield at, "combine = weighted needs one weight for each model", ""
        if recipe.get("combine") == "chain" and len(models) < 2:
            yield at, "combine = chain needs at least two models", ""
    rules = recipe.get("rules")
    if not isinstance(rules, dict):
        return
    known = {name for _, zone in _tables(rules.get("zone")) if isinstance(name := zone.get("name"), str)}
    named = [name for _, rule in _tables(rules.get("rule")) if isinstance(zones := rule.get("zones"), list) for name in zones]
    if unknown := sorted({name for name in named if isinstance(name, str)} - known):
        yield (*at, "rules"), f"rules name unknown zones: {', '.join(unknown)}", ""


def _tables(value: Any) -> Sequence[tuple[str, dict[str, Any]]]:
    """The tables of a list of tables, with their positions."""
    return [(str(i), item) for i, item in enumerate(value) if isinstance(item, dict)] if isinstance(value, list) else []


def _keys_at(loc: tuple[str, ...]) -> list[str]:
    """The keys the model at `loc` knows."""
    model: Any = Config
    for part in loc:
        if part.isdigit():
            continue
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = model_in(field.annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
