"""What can become of a file besides being decoded: rejected with what is known of it, or changed while it was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edged.errors import EdgedError, FrameRejected, Unavailable
from edged.nouns import ImageFacts, Landing


class Rejected(FrameRejected):
    """A whole file rejected. `image` is what could still be told of it; None when not even its bytes could be read.

    `image.sha256` is empty for a file so large that hashing it would take longer than a decode may.
    """

    def __init__(self, reason: str, detail: str, image: ImageFacts | None = None, hint: str = "") -> None:
        super().__init__(reason, detail, hint)
        self.image = image


class ChangedUnderway(EdgedError):  # noqa: N818 - it names what happened
    """The file is no longer the one that landed (size, mtime, inode or kind differ). Reaction: intake looks at it again."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} changed after it had settled: {what}")
        self.name = name
        self.what = what
        self.hint = "The tool writes it again; it is judged when it has settled."


def raise_for(answer: Mapping[str, Any], landing: Landing, recipe: str) -> None:
    """Raises for the outcomes that say nothing of the image itself."""
    outcome, detail = answer["outcome"], answer.get("detail", "")
    if outcome == "vanished":
        raise FileNotFoundError(f"{landing.name} of camera {landing.camera} went away before it was read")
    if outcome == "changed":
        raise ChangedUnderway(landing.name, detail)
    if outcome in ("unavailable", "hung") and answer.get("reference"):
        hint = "Look at where the golden references of this recipe lie: is it mounted, and may edged read it?"
        raise Unavailable(f"recipe:{recipe}", f"{landing.name}: {detail}", hint)
    if outcome in ("unavailable", "hung"):
        hint = f"Look at the folder {landing.folder}: is it mounted, and may edged read it?"
        raise Unavailable(f"folder:{landing.camera}", f"{landing.name}: {detail}", hint)
    if outcome == "unsent":
        raise Unavailable("decoders", f"{landing.name}: {detail}", "It is tried again. If this goes on, start edged anew.")
    if outcome == "flat-field":
        raise Unavailable(f"recipe:{recipe}", detail, "Put the flat field's image back, or take flat_field out of the recipe.")
