"""The files a camera is looking at: candidates that are not settled yet, and flights that are on their way to a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edged.intake.settle import Patience, Phase, Progress
from edged.intake.watches import Hint
from edged.nouns import Landing

MOVED_QUIET_S = 0.05
CLOSED_QUIET_S = 0.25
HINTED_DOUBT_S = 2.0
LOCAL_DOUBT_S = 10.0
SHARED_DOUBT_S = 30.0


@dataclass(slots=True)
class Candidate:
    """`due`: when to look again. `note`: what it waits for, for people. `settled_at`: it waits for company only (sidecar, reference)."""

    path: bytes
    detected: datetime
    first_at: float
    due: float
    hint: Hint = Hint.SEEN
    progress: Progress | None = None
    settled_at: float | None = None
    note: str = ""

    @property
    def writing(self) -> bool:
        return self.progress is not None and self.progress.phase is Phase.WRITING


@dataclass(slots=True)
class Flight:
    """A landing that is ready or sent. `touched`: something happened to the file since, so it is looked at again afterwards."""

    landing: Landing
    touched: bool = False


def patience(hint: Hint, *, watched: bool, settle_s: float | None, poll_s: float, give_up_s: float) -> Patience:
    """How long a file must stand still.

    On a watched local folder a rename into place or a close shortens the wait; otherwise two looks a poll apart. A doubtful structure (raw
    pixels ending in zeros, a format edged does not know) waits 2 s, 10 s, or 30 s on a share, where nobody tells of reserved space.
    """
    hinted = watched and hint is not Hint.SEEN
    quiet_s = (MOVED_QUIET_S if hint is Hint.MOVED else CLOSED_QUIET_S) if hinted else poll_s
    if settle_s is not None:
        quiet_s = settle_s
    doubt_s = HINTED_DOUBT_S if hinted else LOCAL_DOUBT_S if watched else SHARED_DOUBT_S
    return Patience(quiet_s, max(quiet_s, min(doubt_s, give_up_s)), max(give_up_s, quiet_s))
