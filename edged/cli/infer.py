"""infer: files judged as the daemon would, on the same path, with nothing recorded or published."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edged import logs
from edged.cli import DEFAULT_CONFIG
from edged.cli.offline import pick_camera
from edged.config import Camera, Config, Log, LogLevel, Models, Recipe, from_data, load
from edged.errors import ConfigError, ConfigProblem, EdgedError, FrameRejected, Unavailable
from edged.inference import Inference
from edged.intake import identify_file
from edged.journey import Journey
from edged.nouns import Landing, display_name
from edged.plant.messages import Messages
from edged.verdict import gate, golden_defects, judge
from edged.vision.decoders import Decoders
from edged.vision.offline import prepare_golden
from edged.vision.outcomes import ChangedUnderway
from edged.vitals.health import HealthBoard

READY_S = 60.0
AWAY_S = 5.0


def infer(args: argparse.Namespace) -> int:
    """Exit 1 when a file could not be read, or when nothing could judge it."""
    logs.setup(Log(level=LogLevel.ERROR))
    if args.reference is not None and not args.reference.is_file():
        raise Unavailable(f"the reference {args.reference}", "there is no such file", "Give the golden reference's path.")
    config = _configuration(args)
    recipe = _recipe(config, args.recipe)
    try:
        return asyncio.run(_infer(args, config, recipe))
    except ExceptionGroup as group:
        found: Exception = group
        while isinstance(found, ExceptionGroup) and len(found.exceptions) == 1:
            found = found.exceptions[0]  # the one thing that went wrong
        raise found from None


def _configuration(args: argparse.Namespace) -> Config:
    """The station's configuration; without one, a recipe for each model of the repository, named like it."""
    if args.config or DEFAULT_CONFIG.exists():
        config = load(args.config or DEFAULT_CONFIG)
    else:
        names = _models(Models())
        camera = {"name": "infer", "folder": str(Path.cwd()), "recipe": args.recipe if args.recipe in names else names[0]}
        config = from_data({"camera": [camera], "recipe": [{"name": name, "models": [name]} for name in names]})
    if args.triton:
        config = config.model_copy(update={"triton": config.triton.model_copy(update={"endpoints": (args.triton,)})})
    return config


def _recipe(config: Config, wanted: str | None) -> Recipe | None:
    """The recipe asked for: by its name, or one made of the model of that name. None: each file's camera tells."""
    if wanted is None:
        return None
    found = next((recipe for recipe in config.recipe if recipe.name == wanted), None)
    if found is not None:
        return found
    models = _models(config.models)
    if wanted.partition(":")[0] in models:
        return Recipe(name=wanted, models=(wanted,))
    known = ", ".join(sorted({*(recipe.name for recipe in config.recipe), *models}))
    raise ConfigError([ConfigProblem("--recipe", wanted, "there is no such recipe or model", f"there are {known}")])


def _models(models: Models) -> list[str]:
    """The names of the models in the seed repository."""
    repository = models.located().repository
    assert repository is not None
    names = sorted({folder.name.rpartition("__")[0] for folder in repository.glob("*__*") if (folder / "manifest.json").is_file()})
    if not names:
        raise Unavailable("the model repository", f"{repository} holds no model package", "Set [models] repository.")
    return names


async def _infer(args: argparse.Namespace, config: Config, recipe: Recipe | None) -> int:
    recipes = tuple({r.name: r for r in (*config.recipe, *([recipe] if recipe else []))}.values())
    wanted = {recipe.name} if recipe else {pick_camera(config.camera, file, args.camera).recipe for file in args.files}
    recipes = tuple(r for r in recipes if r.name in wanted)
    async with AsyncExitStack() as stack:
        state = config.station.state_dir
        if not os.access(state, os.W_OK):
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edged-infer-")))
        board = HealthBoard()
        decoders = await stack.enter_async_context(Decoders(config.decode, {r.name: r.rules.quality for r in recipes}, board))
        inference = await stack.enter_async_context(
            Inference(
                config.triton,
                config.models.located(),
                state,
                recipes,
                board,
                prepare_golden=prepare_golden,
                find_defects=golden_defects,
                release=decoders.release,
            )
        )
        decoders.on_ring(inference.add_ring)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(inference.run(stop), name="inference")
            try:
                return await _judge_files(args, config, recipes, inference, decoders)
            finally:
                stop.set()


async def _judge_files(
    args: argparse.Namespace, config: Config, recipes: tuple[Recipe, ...], inference: Inference, decoders: Decoders
) -> int:
    """Files are judged side by side, and printed in the order they were given."""
    began = time.monotonic()
    for recipe in recipes:
        inference.plans(recipe.name)  # a model that is not in the repository is said at once
        while not inference.ready(recipe.name):
            waited_s = time.monotonic() - began
            away = [endpoint for endpoint in inference.endpoints() if not endpoint.live]
            if len(away) == len(config.triton.endpoints) and waited_s > AWAY_S:
                cause = away[0].cause or "it does not answer"
                raise Unavailable(f"Triton at {away[0].address}", cause, "Start it, or name it with --triton.")
            if waited_s > READY_S:
                raise Unavailable(f"the recipe {recipe.name}", inference.reason(recipe.name), "See edged doctor.")
            await asyncio.sleep(0.05)
    journey = Journey(
        recipes=recipes,
        vision=decoders,
        inference=inference,
        judge=judge,
        gate=gate,
        reference=args.reference,
    )
    frames = {camera.name: frame for camera in config.camera if (frame := camera.die_frame)}
    messages = Messages(config.station, config.topic_base, frames)
    under_way = asyncio.Semaphore(config.decode.slots)

    async def one(file: Path) -> list[dict[str, Any]] | str:
        async with under_way:
            return await _judge_file(file, pick_camera(config.camera, file, args.camera), args.recipe, journey, messages)

    failed = False
    tasks = [asyncio.ensure_future(one(file)) for file in args.files]
    for file, task in zip(args.files, tasks, strict=True):
        answer = await task
        name = display_name(os.fsencode(file))
        if isinstance(answer, str):
            failed = True
            print(json.dumps({"file": name, "error": answer}) if args.json else f"{name}: {answer}", flush=True)
            continue
        for data in answer:
            print(json.dumps({"file": name, **data}) if args.json else _line(name, data), flush=True)
    return 1 if failed else 0


async def _judge_file(file: Path, camera: Camera, recipe: str | None, journey: Journey, messages: Messages) -> list[dict[str, Any]] | str:
    """`data` of each page's result message, or one sentence why there is none."""
    if not file.is_file():
        return f"{file} is {'a directory' if file.is_dir() else 'no regular file'}" if file.exists() else f"{file} does not exist"
    try:
        landing = _landing(file, camera, recipe)
        return [messages.data_of(page) for page in await journey.judge(landing)]
    except (OSError, FrameRejected, ChangedUnderway) as error:
        return str(error)
    except EdgedError as error:
        return f"{error}. {error.hint}"


def _landing(file: Path, camera: Camera, recipe: str | None) -> Landing:
    path = file.absolute()
    seen = path.stat()
    relative = path.relative_to(camera.folder) if path.is_relative_to(camera.folder) else Path(path.name)
    identity = identify_file(camera, os.fsencode(relative), path)
    return Landing(
        camera=camera.name,
        folder=str(path.parent),
        path=os.fsencode(path.name),
        size=seen.st_size,
        mtime_ns=seen.st_mtime_ns,
        inode=seen.st_ino,
        identity=identity,
        recipe=recipe or camera.recipe,
        detected=datetime.now(UTC),
        settle_ms=0.0,
        settled_monotonic=time.monotonic(),
    )


def _line(name: str, data: dict[str, Any]) -> str:
    classes = ", ".join(f"{defect['class']} {defect['confidence']:.2f}" for defect in data["defects"][:5])
    return f"{name}: {data['verdict']} {data['reason']}" + (f"  [{classes}]" if classes else "")
