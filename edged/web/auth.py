"""Who may do what: bearer tokens with roles, from a file.

The file has one token a line, `#` begins a comment line:

    # role    name           token
    viewer    wall-display   sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
    engineer  a.meier        a-long-random-text-of-at-least-16-characters

`role` is viewer, operator or engineer (each may do what those before it may); `name` stands in logs and audit; the token is written
plainly, or as `sha256:` and the hash of it (`printf %s TOKEN | sha256sum`). Make one with `openssl rand -hex 32`.

Invariants
- The file is read again whenever it changed, so a removed token ends at once; a file that cannot be read admits nobody.
- Only hashes are kept in memory, and every known hash is compared, in constant time.
- A line that is wrong is named by its number, never by its content.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import structlog

from edged.errors import ConfigError, ConfigProblem

MIN_TOKEN_CHARS = 16


class Role(IntEnum):
    """Each role may do what the lower ones may."""

    VIEWER = 1
    OPERATOR = 2
    ENGINEER = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Token:
    caller: Caller
    digest: bytes


def parse_tokens(text: str) -> tuple[tuple[Token, ...], list[str]]:
    """The tokens, and one sentence for each line that is none."""
    tokens, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _parse_line(words)
        if isinstance(token, str):
            problems.append(f"line {number}: {token}")
        else:
            tokens.append(token)
    return tuple(tokens), problems


def _parse_line(words: list[str]) -> Token | str:
    if len(words) != 3:
        return "expected three words: role name token"
    role, name, secret = words
    if role.upper() not in Role.__members__:
        return "the role must be viewer, operator or engineer"
    kind, colon, value = secret.partition(":")
    if kind == "sha256" and colon:
        if not re.fullmatch("[0-9a-fA-F]{64}", value):
            return "sha256: must be followed by 64 hexadecimal digits"
        digest = bytes.fromhex(value)
    elif len(secret) < MIN_TOKEN_CHARS:
        return f"the token is shorter than {MIN_TOKEN_CHARS} characters"
    else:
        digest = hashlib.sha256(secret.encode()).digest()
    return Token(Caller(name, Role[role.upper()]), digest)


class Tokens:
    """The tokens of `path`, or none at all. Raises ConfigError when the file cannot be used at the start."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: tuple[Token, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        self._problems: list[str] = []
        self._log = structlog.get_logger("edged.web")
        if path is None:
            return
        try:
            self._seen = _mark(path)
            self._known, problems = parse_tokens(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problems = [f"cannot be read: {error.__class__.__name__}"]
        if problems:
            hint = "write one token a line: role name token"
            raise ConfigError([ConfigProblem(str(path), "http.tokens_file", text, hint) for text in problems])

    @property
    def configured(self) -> bool:
        return self.path is not None

    def caller(self, token: str) -> Caller | None:
        """Who holds this token."""
        self._refresh()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known.caller
        return found

    def _refresh(self) -> None:
        if self.path is None:
            return
        try:
            mark = _mark(self.path)
            if mark == self._seen:
                return
            known, problems = parse_tokens(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            mark, known, problems = None, (), [f"cannot be read: {error.__class__.__name__}; nobody is admitted until it can"]
        if problems and problems != self._problems:  # said once, not at every request
            self._log.warning("tokens.problem", file=str(self.path), problems=problems)
        elif not problems:
            self._log.info("tokens.read", file=str(self.path), tokens=len(known))
        self._problems = problems
        self._known, self._seen = known, mark


def _mark(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
