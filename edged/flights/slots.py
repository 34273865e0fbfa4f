"""The slots in memory: one for each image under way, and one for each suspect that is left of an earlier run.

Invariants
- The memory is a file below /dev/shm, so that it outlives the process and nothing else: never on the ledger's disk, where a full, frozen
  or broken file system would stop or end whoever touches a mapped page. Nothing is synced; a reboot forgets it, which loses nothing.
- A slot's text is written before its state says that it is taken; a checksum tells one that was torn. What does not read is no suspect.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

SLOTS: Final = 256
HEAD: Final = 4096
"""The header, and from `PLACE` on room for the path of the state directory that it belongs to."""
PLACE: Final = 64
_HEADER: Final = struct.Struct("<8sBBHQ")  # magic, how the run ended, condemned since the last good one, -, the kernel's count of OOM kills
_FIXED: Final = struct.Struct("<BBBBIqqHH")  # state, phase, caused, unexplained, checksum, size, mtime_ns, lengths of name and cause
_MAGIC: Final = b"EDGEDIF1"
_SLOT: Final = 640
_NAME: Final = 448
_CAUSE: Final = _SLOT - _FIXED.size - _NAME
_DIGEST: Final = 16
BYTES: Final = HEAD + SLOTS * _SLOT


class State(IntEnum):
    FREE = 0
    FLYING = 1  # with others
    ALONE = 2
    SUSPECT = 3  # waits for its turn


_FLYING: Final = int(State.FLYING)
_STATES: Final = {(state, recording): bytes((state, recording)) for state in State for recording in (False, True)}


class Ended(IntEnum):
    """How the run before ended: nobody came to say, as it should, or by an exception that no image was found to have caused."""

    UNTOLD = 0
    WELL = 1
    BUG = 2


@dataclass(frozen=True, slots=True)
class Left:
    """What a slot holds. `recording`: it was judged, its record under way. `caused`, `unexplained`: deaths while it was under way."""

    name: bytes
    size: int
    mtime_ns: int
    state: State
    recording: bool = False
    caused: int = 0
    unexplained: int = 0
    cause: str = ""

    @property
    def told(self) -> str:
        """For people."""
        camera, _, path = self.name.partition(b"\0")
        return f"{path.decode('utf-8', 'backslashreplace')} of camera {camera.decode('utf-8', 'replace')}"


def name_of(camera: str, path: bytes) -> bytes:
    """Both in a slot's room; of what is too long the end is a digest."""
    name = camera.encode() + b"\0" + path
    if len(name) <= _NAME:
        return name
    return name[: _NAME - _DIGEST] + hashlib.blake2b(name, digest_size=_DIGEST).digest()


class Slots:
    """Over `memory` of `BYTES`; None: our own, which tells nobody. `before`: what an earlier run left there, `ended`: how it ended."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        self._memory = memory or mmap.mmap(-1, BYTES)
        magic, ended, condemned, _, oom_kills = _HEADER.unpack_from(self._memory)
        known = magic == _MAGIC and ended in tuple(Ended)
        self.ended = Ended(ended) if known else Ended.WELL
        self.before: list[Left] = list(self._read()) if known else []
        self._condemned, self.oom_kills = (int(condemned), int(oom_kills)) if known else (0, 0)
        self._free = list(range(SLOTS - 1, -1, -1))

    def begin(self, suspects: list[Left], oom_kills: int) -> dict[tuple[bytes, int, int], tuple[int, Left]]:
        """A new run: only `suspects` stay. Returns them with their slots, by what tells an image."""
        self._memory[HEAD:] = bytes(BYTES - HEAD)
        held = {}
        for left in suspects:
            slot = self._free.pop()
            self.write(slot, left)
            held[left.name, left.size, left.mtime_ns] = slot, left
        self.oom_kills = oom_kills
        self._head(Ended.UNTOLD)
        return held

    def end(self, how: Ended) -> None:
        self._head(how)

    @property
    def condemned(self) -> int:
        """How many since an image was last judged well."""
        return self._condemned

    @condemned.setter
    def condemned(self, count: int) -> None:
        if count != self._condemned:
            self._condemned = count
            self._head(Ended.UNTOLD)

    def take(self, name: bytes, size: int, mtime_ns: int) -> int | None:
        """A slot for an image that takes off; None when all are taken: it flies untold."""
        if not self._free:
            return None
        slot = self._free.pop()
        at, length = HEAD + slot * _SLOT, len(name)
        self._memory[at + _FIXED.size : at + _FIXED.size + length] = name
        _FIXED.pack_into(self._memory, at, _FLYING, 0, 0, 0, zlib.crc32(name), size, mtime_ns, length, 0)
        return slot

    def write(self, slot: int, left: Left) -> None:
        at, cause = HEAD + slot * _SLOT, left.cause.encode()[:_CAUSE]
        self._memory[at + _FIXED.size : at + _FIXED.size + len(left.name)] = left.name
        if cause:
            self._memory[at + _FIXED.size + _NAME : at + _FIXED.size + _NAME + len(cause)] = cause
        counts = left.state, left.recording, left.caused, left.unexplained
        _FIXED.pack_into(self._memory, at, *counts, zlib.crc32(left.name), left.size, left.mtime_ns, len(left.name), len(cause))

    def state(self, slot: int, state: State, *, recording: bool = False) -> None:
        at = HEAD + slot * _SLOT
        self._memory[at : at + 2] = _STATES[state, recording]

    def release(self, slot: int) -> None:
        self._memory[HEAD + slot * _SLOT] = 0
        self._free.append(slot)

    def _head(self, ended: Ended) -> None:
        _HEADER.pack_into(self._memory, 0, _MAGIC, ended, min(self._condemned, 255), 0, self.oom_kills)

    def _read(self) -> Iterator[Left]:
        for at in range(HEAD, BYTES, _SLOT):
            state, recording, caused, unexplained, crc, size, mtime_ns, length, cause = _FIXED.unpack_from(self._memory, at)
            name = self._memory[at + _FIXED.size : at + _FIXED.size + min(length, _NAME)]
            if State.FREE < state <= State.SUSPECT and zlib.crc32(name) == crc and b"\0" in name:
                words = self._memory[at + _FIXED.size + _NAME : at + _FIXED.size + _NAME + min(cause, _CAUSE)].decode("utf-8", "replace")
                yield Left(name, size, mtime_ns, State(state), bool(recording), caused, unexplained, words)
