"""What the health board is told of Triton and of each recipe, and what a model's snapshot says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edged.errors import ModelMismatch
from edged.inference.states import EXHAUSTED, EXHAUSTED_HINT, EndpointSnapshot, ModelSnapshot, ModelState
from edged.nouns import Board, HealthItem, HealthStatus

if TYPE_CHECKING:
    from edged.inference.connection import Endpoint
    from edged.inference.served import ServedModel

STUCK_HINT = "Look at Triton's log; restart Triton if it hangs. Images that are not with it go on."
SHM_HINT = "Give Triton the daemon's /dev/shm (a container: --ipc=host) and a group that both belong to, or set shared_memory = off."


def model_snapshot(endpoint: Endpoint, model: ServedModel, recipes: tuple[str, ...]) -> ModelSnapshot:
    manifest = model.package.manifest
    return ModelSnapshot(
        name=manifest.name,
        version=manifest.version,
        sha256=manifest.model_sha256,
        kind=manifest.kind,
        endpoint=endpoint.name,
        state=model.state,
        since=model.since,
        cause=model.cause,
        hint=model.hint,
        circuit=model.breaker.state.value,
        opened=model.breaker.opened,
        golden=model.golden.count,
        recipes=recipes,
        shared_memory=endpoint.rings.in_use,
        requests=model.batcher.requests,
        images=model.images,
        waiting=model.batcher.waiting,
        in_flight=model.batcher.volleys,
        stuck=model.batcher.overdue,
        stuck_s=round(model.batcher.stuck_s, 1),
        exhausted=model.exhausted,
    )


def report_triton(board: Board, endpoints: Sequence[EndpointSnapshot], models: Sequence[ModelSnapshot]) -> None:
    """`triton`: down when none answers; degraded when one does not, owes answers, or does not take the shared memory that it should."""
    facts: dict[str, Any] = {
        "endpoints": {e.name: {"address": e.address, "live": e.live, "version": e.version} for e in endpoints},
        "shared_memory": {e.name: e.shared_memory_problem or ("in use" if e.shared_memory else "off") for e in endpoints},
        "circuits_open": [f"{m.name}:{m.version}" for m in models if m.circuit != "closed"],
        "blocked_slots": sum(e.blocked_slots for e in endpoints),
        "stuck_requests": {f"{m.name}:{m.version}@{m.endpoint}": m.stuck for m in models if m.stuck},
    }
    away = [e for e in endpoints if not e.live]
    if away:
        status = HealthStatus.DOWN if len(away) == len(endpoints) else HealthStatus.DEGRADED
        cause = "; ".join([*(f"Triton at {e.address} is away: {e.cause}" for e in away), *filter(None, [_stuck(endpoints, models)])])
        board.report("triton", status, cause, "Start Triton, or correct [triton] endpoints; images wait in their folders.", **facts)
    elif stuck := _stuck(endpoints, models):
        board.report("triton", HealthStatus.DEGRADED, stuck, STUCK_HINT, **facts)
    elif problem := next((e.shared_memory_problem for e in endpoints if e.shared_memory_problem), ""):
        board.report("triton", HealthStatus.DEGRADED, f"{problem}; images travel as bytes", SHM_HINT, **facts)
    else:
        board.report("triton", HealthStatus.OK, **facts)


def _stuck(endpoints: Sequence[EndpointSnapshot], models: Sequence[ModelSnapshot]) -> str:
    """What Triton owes, one sentence; '' if nothing."""
    blocked = sum(endpoint.blocked_slots for endpoint in endpoints)
    slots = f"{blocked} slot{'s' if blocked > 1 else ''} stay{'' if blocked > 1 else 's'} blocked until Triton answers or restarts"
    overdue = [model for model in models if model.stuck]
    if overdue:
        said = "; ".join(f"{m.stuck} request(s) to {m.name}:{m.version} at {m.endpoint} unanswered for {m.stuck_s:.0f} s" for m in overdue)
        return f"{said}; {slots}" if blocked else said
    return f"requests were given up unanswered; {slots}" if blocked else ""


def report_recipe(board: Board, name: str, problem: ModelMismatch | None, rows: Sequence[Sequence[ModelSnapshot]]) -> None:
    item = recipe_item(problem, rows)
    models = {f"{m.name}:{m.version}@{m.endpoint}": m.state.value for row in rows for m in row}
    board.report(f"recipe:{name}", item.status, item.cause, item.hint, models=models)


def recipe_item(problem: ModelMismatch | None, rows: Sequence[Sequence[ModelSnapshot]]) -> HealthItem:
    """Ready at the first endpoint: ok; only at a later one: degraded; nowhere: down, with the first model that is not ready."""
    if problem is not None:
        return HealthItem("", HealthStatus.DOWN, str(problem), problem.hint)
    for n, row in enumerate(rows):
        if row and all(_ready(model) for model in row):
            if n == 0:
                return HealthItem("", HealthStatus.OK)
            return HealthItem("", HealthStatus.DEGRADED, f"judged by {row[0].endpoint}, not by the local Triton", "See the triton item.")
    for row in rows:
        for model in row:
            if not _ready(model):
                if model.exhausted and model.state is ModelState.READY:
                    return HealthItem("", HealthStatus.DOWN, f"model {model.name}:{model.version}: {EXHAUSTED}", EXHAUSTED_HINT)
                cause = f"model {model.name}:{model.version} is {model.state}" + (f": {model.cause}" if model.cause else "")
                # On its way and nothing said against it: no alarm, as at every start. A Triton that is away is an item of its own.
                coming = model.state in (ModelState.WAITING, ModelState.LOADING) and not model.cause
                return HealthItem("", HealthStatus.UNKNOWN if coming else HealthStatus.DOWN, cause, model.hint)
    return HealthItem("", HealthStatus.DOWN, "its models are not loaded yet")


def _ready(model: ModelSnapshot) -> bool:
    return model.state is ModelState.READY and model.circuit == "closed" and not model.exhausted
