"""What is known of one directory's names, in a few bytes a file.

Invariants
- A name is known with a stamp: a hash of size and mtime. Stamp 0 means: listed, and its turn has not come.
- A file found to be known needs both 64-bit hashes to agree, of its name and of its stamp; a listing compares names only.
- The large table is replaced as a whole, never reordered: a listing under way in another thread keeps the one it began with. It reads the
  small table first; a name leaves that one only once it is in the large one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MERGE_AT = 4096
LISTED = 0


def stamp(size: int, mtime_ns: int) -> int:
    """Never 0 (that is `LISTED`); the same within this process only."""
    return hash((size, mtime_ns)) or 1


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Names by their sorted hashes; `names` holds their bytes from `starts` to `ends`. `stamps` and `alive` change in place."""

    hashes: NDArray[np.int64]
    stamps: NDArray[np.int64]
    alive: NDArray[np.bool_]
    starts: NDArray[np.uint32]
    ends: NDArray[np.uint32]
    names: bytes

    @classmethod
    def empty(cls) -> _Table:
        numbers, places = np.empty(0, np.int64), np.empty(0, np.uint32)
        return cls(numbers, numbers, np.empty(0, np.bool_), places, places, b"")

    def index(self, name: str) -> int | None:
        value = hash(name)
        index = int(self.hashes.searchsorted(value))
        return index if index < len(self.hashes) and self.hashes[index] == value and self.alive[index] else None

    def find(self, names: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """For each name its index, and whether it is there at all."""
        if not len(self.hashes) or not names:
            return np.zeros(len(names), np.intp), np.zeros(len(names), np.bool_)
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        index = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return index, (self.hashes[index] == hashes) & self.alive[index]

    def name(self, index: int | np.integer) -> str:
        return self.names[int(self.starts[index]) : int(self.ends[index])].decode("utf-8", "surrogateescape")

    def merged(self, recent: dict[str, int]) -> tuple[_Table, dict[str, int]]:
        """With the names of `recent`; those whose hash is taken already are left over."""
        names, values = list(recent), list(recent.values())
        fresh = np.fromiter(map(hash, names), np.int64, len(names))
        _, first = np.unique(fresh, return_index=True)
        clash = np.isin(fresh, self.hashes[self.alive])
        clash[np.setdiff1d(np.arange(len(names)), first)] = True
        staying = {names[index]: values[index] for index in np.flatnonzero(clash).tolist()}
        moving = np.flatnonzero(~clash)
        encoded = [names[index].encode("utf-8", "surrogateescape") for index in moving.tolist()]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded))) + len(self.names)
        starts = np.concatenate((np.array([len(self.names)], np.int64), ends[:-1]))
        alive = self.alive
        hashes = np.concatenate((self.hashes[alive], fresh[moving]))
        order = np.argsort(hashes)
        table = _Table(
            hashes[order],
            np.concatenate((self.stamps[alive], np.array(values, np.int64)[moving]))[order],
            np.ones(len(order), np.bool_),
            np.concatenate((self.starts[alive], starts[: len(encoded)].astype(np.uint32)))[order],
            np.concatenate((self.ends[alive], ends.astype(np.uint32)))[order],
            self.names + b"".join(encoded),
        )
        return table.tidied(), staying

    def tidied(self) -> _Table:
        """Names that were dropped leave their bytes behind; when they are more than half, the rest is copied."""
        if len(self.names) <= 65_536 + 2 * int((self.ends - self.starts).sum(dtype=np.int64)):
            return self
        names = [self.names[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]
        ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
        starts = np.concatenate((np.zeros(1, np.int64), ends[:-1])).astype(np.uint32)
        return _Table(self.hashes, self.stamps, self.alive, starts, ends.astype(np.uint32), b"".join(names))


class KnownNames:
    """Names are text as `os.fsdecode` gives it. About 40 bytes a file once merged, against 500 for a Path and a stat."""

    def __init__(self) -> None:
        self.recent: dict[str, int] = {}
        self.table = _Table.empty()

    def __len__(self) -> int:
        return len(self.recent) + int(np.count_nonzero(self.table.alive))

    def get(self, name: str) -> int | None:
        """The stamp, or None for a name never seen."""
        recent = self.recent.get(name)
        if recent is not None:
            return recent
        index = self.table.index(name)
        return None if index is None else int(self.table.stamps[index])

    def put(self, name: str, value: int) -> None:
        index = self.table.index(name)
        if index is not None and name not in self.recent:
            self.table.stamps[index] = value
            return
        self.recent[name] = value
        if len(self.recent) >= max(_MERGE_AT, len(self.table.hashes) // 8):
            self.merge()

    def merge(self) -> None:
        """The names of the small table go into the large one."""
        table, staying = self.table.merged(self.recent)
        self.table = table  # before the small one shrinks: whoever reads that one first misses nothing
        self.recent = staying

    def drop(self, name: str) -> None:
        if self.recent.pop(name, None) is None and (index := self.table.index(name)) is not None:
            self.table.alive[index] = False

    def names(self) -> Iterator[str]:
        table = self.table
        yield from [*self.recent, *(table.name(index) for index in np.flatnonzero(table.alive))]


class Roll:
    """One listing's roll call: which listed names are new, and which known ones were not listed in the end."""

    def __init__(self, known: KnownNames) -> None:
        self._known, self._table = known, known.table
        self._before = set(known.recent)
        self._seen = ~known.table.alive

    def call(self, names: Sequence[str]) -> list[str]:
        """Mark `names` as listed and return those that are not known. Safe in the folder's thread."""
        recent, table = self._known.recent, self._known.table
        index, hit = self._table.find(names)
        self._seen[index[hit]] = True
        self._before.difference_update(names)
        if table is not self._table:
            _, hit = table.find(names)
        return [name for name in (names[at] for at in np.flatnonzero(~hit).tolist()) if name not in recent]

    def changed(self, names: Sequence[str], stamps: NDArray[np.int64]) -> list[str]:
        """Of listed names with their present stamps (0: not known), those that are known with another one."""
        recent, table = self._known.recent, self._known.table
        index, hit = table.find(names)
        found: list[str] = []
        if hit.any():
            before = table.stamps[index]
            differ = hit & (stamps != LISTED) & (before != LISTED) & (before != stamps)
            found = [names[at] for at in np.flatnonzero(differ).tolist()]
        for at in np.flatnonzero(~hit).tolist():
            before_recent, present = recent.get(names[at]), int(stamps[at])
            if before_recent and present and before_recent != present:
                found.append(names[at])
        return found

    def missing(self) -> list[str]:
        """After a complete listing: the names known before it that it did not show."""
        gone = (*self._before, *map(self._table.name, np.flatnonzero(~self._seen)))
        return [name for name in gone if self._known.get(name) is not None]
