"""When is a file settled? A pure state machine over looks at it; only a monotonic clock enters.

Invariants
- Settled needs two looks at least `quiet_s` apart with the same size, mtime and inode, the last with the structure `COMPLETE`.
- A structure that cannot prove itself (`SUSPECT`, `UNKNOWN`) needs `doubt_s` of stillness in place of `quiet_s`.
- An `INCOMPLETE` file is never settled; after `give_up_s` without change of the stamp or of the byte where it breaks it is given up.
- Any change begins the wait anew. Wall clocks and the age of mtimes play no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edged.intake.window import Grade, Structure

Stamp = tuple[int, int, int]
"""(size, mtime_ns, inode) as one look saw them."""


class Phase(StrEnum):
    WAITING = "waiting"
    WRITING = "still being written"
    SETTLED = "settled"
    GAVE_UP = "gave up"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds of stillness: for a proven file, for a doubtful one, and before an incomplete one is given up."""

    quiet_s: float
    doubt_s: float
    give_up_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a file. `structure` None: only its stat was taken."""

    at: float
    stamp: Stamp
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What the looks so far add up to. `still_since`: the first look since which nothing changed; `looks` counts from there.

    `grade`: what the structure was at the last look that read it.
    """

    stamp: Stamp
    still_since: float
    looks: int
    phase: Phase
    broken_at: int | None = None
    why: str = ""
    grade: Grade | None = None


def step(before: Progress | None, look: Look, patience: Patience) -> Progress:
    """Add one look; looks come in the order of their time."""
    if before is None or before.stamp != look.stamp:
        before = Progress(look.stamp, look.at, 0, Phase.WAITING)
    looks, still_since = before.looks + 1, before.still_since
    structure = look.structure
    if structure is None:
        return Progress(look.stamp, still_since, looks, before.phase, before.broken_at, before.why, before.grade)
    broken_at = structure.at if structure.grade in (Grade.INCOMPLETE, Grade.SUSPECT) else None
    if before.grade is not None and (structure.grade, broken_at) != (before.grade, before.broken_at):
        looks, still_since = 1, look.at
    phase = _phase(structure.grade, look.at - still_since, looks, patience)
    return Progress(look.stamp, still_since, looks, phase, broken_at, structure.why, structure.grade)


def _phase(grade: Grade, still_s: float, looks: int, patience: Patience) -> Phase:
    if grade is Grade.INCOMPLETE:
        return Phase.GAVE_UP if looks > 1 and still_s >= patience.give_up_s else Phase.WRITING
    wait_s = patience.quiet_s if grade is Grade.COMPLETE else patience.doubt_s
    return Phase.SETTLED if looks > 1 and still_s >= wait_s else Phase.WAITING


def worth_examining(progress: Progress | None, at: float, patience: Patience) -> bool:
    """Whether a look at `at` that finds the same stamp could settle the file, so that its structure is worth reading."""
    return progress is not None and at - progress.still_since >= patience.quiet_s


def next_look(progress: Progress, at: float, patience: Patience, poll_s: float) -> float:
    """When to look again: as soon as stillness could be enough, otherwise at the next poll."""
    due = progress.still_since + patience.quiet_s
    if progress.looks == 1 and progress.broken_at is None:
        return max(due, at)
    if progress.broken_at is None and progress.why:  # examined, and only doubt remains
        return max(min(at + poll_s, progress.still_since + patience.doubt_s), at + 0.02)
    return at + poll_s
