"""One progress line: redrawn in place on a terminal, one line per note elsewhere. Always on stderr, so --json stays clean."""

from __future__ import annotations

import sys
import time


class Progress:
    """Invariants
    - stdout is never touched
    - without a terminal only `note` and `end` print, so a log holds one line per epoch
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, max(1, total)
        self._began = time.monotonic()
        self._drawn = 0.0
        self._live = sys.stderr.isatty()

    def show(self, done: int, text: str = "") -> None:
        """Redraws the line, at most five times a second."""
        now = time.monotonic()
        if not self._live or now - self._drawn < 0.2:
            return
        self._drawn = now
        share = min(1.0, done / self._total)
        left = (now - self._began) * (1 - share) / share if share else 0.0
        filled = "=" * int(share * 24)
        sys.stderr.write(f"\r\x1b[K{self._title} [{filled:<24}] {share:4.0%} {left:4.0f} s left {text}")
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """A line that stays, such as an epoch's figures."""
        sys.stderr.write(f"{self._clear()}{self._title}: {text} ({time.monotonic() - self._began:.0f} s)\n")
        sys.stderr.flush()

    def end(self, text: str) -> None:
        self.note(f"done, {text}")

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""
