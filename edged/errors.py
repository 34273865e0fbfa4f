"""The error taxonomy, named by what happens next.

Each error carries its facts as attributes and a `hint`: the operator's next step, one sentence. Code either raises or logs, never both.
"""

from __future__ import annotations

from dataclasses import dataclass


class EdgedError(Exception):
    """Base of every error edged raises on purpose."""

    hint: str = ""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong with the configuration: where it stands and what to write instead."""

    source: str
    key: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.key}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(EdgedError):
    """Cannot run as configured. Reaction: print every problem, exit 78, no restart."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
        self.hint = "Correct the configuration and run `edged check-config`."


class FrameRejected(EdgedError):  # noqa: N818 - a rejected frame is an outcome, not a failure of ours
    """This image is bad for good. Reaction: an ERROR verdict, recorded and published like any other; the file to quarantine."""

    def __init__(self, reason: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint or "Look at the image in quarantine; drop a good copy to have it judged."


class Conflict(EdgedError):  # noqa: N818 - it names what stands in the way
    """What somebody asked for cannot be done as things stand. Reaction: say why; nothing is changed. `kind` as in `image-gone`."""

    def __init__(self, kind: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.hint = hint


class Unavailable(EdgedError):  # noqa: N818 - it names a state of the peer
    """A peer (Triton, broker, share, disk) is away and will be back. Reaction: hold, back off, say so in health.

    `lasting`: not by itself (another edged has it, permission is missing); at a start this ends the process.
    """

    def __init__(self, what: str, cause: str, hint: str = "", *, lasting: bool = False) -> None:
        super().__init__(f"{what} is unavailable: {cause}")
        self.what = what
        self.cause = cause
        self.hint = hint
        self.lasting = lasting


class ModelMismatch(EdgedError):  # noqa: N818 - it names what was found
    """The served model is not what the recipe names. Reaction: hold the recipe; never reject an image for it."""

    def __init__(self, model: str, cause: str, hint: str = "") -> None:
        super().__init__(f"model {model}: {cause}")
        self.model = model
        self.cause = cause
        self.hint = hint or "Deploy the model that the recipe names, or name the deployed one in the recipe."


class ModelOutputInvalid(EdgedError):  # noqa: N818 - it names what was found
    """A model answered NaN or a wrong shape. Reaction: run its golden image, then decide between image and model."""

    def __init__(self, model: str, cause: str) -> None:
        super().__init__(f"model {model}: {cause}")
        self.model = model
        self.cause = cause


class LedgerCorrupt(EdgedError):  # noqa: N818 - it names what was found
    """The ledger's file does not read. Reaction: set it aside, rebuild, begin a new epoch, say exactly what was lost."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"the ledger {path} is corrupt: {cause}")
        self.path = path
        self.cause = cause
        self.hint = "The file is kept for analysis; check the disk."


class LedgerNewer(EdgedError):  # noqa: N818 - it names what was found
    """A newer edged has changed the ledger's tables. Reaction: exit 78, no restart: another try finds the same."""

    def __init__(self, path: str, changes: list[str]) -> None:
        super().__init__(f"the ledger {path} cannot be used: a newer edged has changed it ({', '.join(changes)})")
        self.path = path
        self.changes = changes
        self.hint = "Start the newer edged again, or restore the ledger's backup from before the upgrade (edged db backup makes one)."
