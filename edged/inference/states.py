"""What is said of models and endpoints to those who look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

EXHAUSTED = "every slot is blocked by requests that Triton has not answered"
EXHAUSTED_HINT = "Restart Triton: only its answer, or its end, frees the slots."


class ModelState(StrEnum):
    """`waiting`: Triton is away; `loading`: being loaded and checked; `hanging`: the circuit is open; `unloaded`: on request."""

    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    MISMATCH = "mismatch"
    HANGING = "hanging"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One model version at one endpoint. `golden`: how many golden images it passes; `circuit`: closed, open or half-open; `stuck`:
    requests that are overdue and still unanswered, the oldest for `stuck_s`; `exhausted`: they block every slot."""

    name: str
    version: str
    sha256: str
    kind: str
    endpoint: str
    state: ModelState
    since: datetime
    cause: str
    hint: str
    circuit: str
    opened: int
    golden: int
    recipes: tuple[str, ...]
    shared_memory: bool
    requests: int
    images: int
    waiting: int
    in_flight: int
    stuck: int
    stuck_s: float
    exhausted: bool


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """One Triton. `blocked_slots`: slots of lost requests that Triton may still read."""

    name: str
    address: str
    live: bool
    version: str
    cause: str
    shared_memory: bool
    shared_memory_problem: str
    blocked_slots: int
