"""What can become of a file besides being decoded: rejected with what is known of it, or changed while it was read."""

from __future__ import annotations

from edged.errors import EdgedError, FrameRejected
from edged.nouns import ImageFacts


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
