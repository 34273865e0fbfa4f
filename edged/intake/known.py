"""What is known of one directory's names, in a few bytes a file.

Invariants
- A name is known with a stamp: a hash of size and mtime. Stamp 0 means: listed, and its turn has not come.
- A file found to be known needs both 64-bit hashes to agree, of its name and of its stamp; a listing compares names only.
- While a listing is under way the large table does not change: new names go to the small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_MERGE_AT = 4096
LISTED = 0


def stamp(size: int, mtime_ns: int) -> int:
    """Never 0 (that is `LISTED`); the same within this process only."""
    return hash((size, mtime_ns)) or 1


class KnownNames:
    """Names are text as `os.fsdecode` gives it. About 40 bytes a file once merged, against 500 for a Path and a stat."""

    def __init__(self) -> None:
        self._recent: dict[str, int] = {}
        self._hashes: NDArray[np.int64] = np.empty(0, np.int64)
        self._stamps: NDArray[np.int64] = np.empty(0, np.int64)
        self._alive: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._starts: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._ends: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._names = b""
        self._listings = 0

    def __len__(self) -> int:
        return len(self._recent) + int(np.count_nonzero(self._alive))

    def get(self, name: str) -> int | None:
        """The stamp, or None for a name never seen."""
        recent = self._recent.get(name)
        if recent is not None:
            return recent
        index = self._index(name)
        return None if index is None else int(self._stamps[index])

    def put(self, name: str, value: int) -> None:
        index = self._index(name)
        if index is not None:
            self._stamps[index] = value
            return
        self._recent[name] = value
        if len(self._recent) >= max(_MERGE_AT, len(self._hashes) // 4) and not self._listings:
            self._merge()

    def drop(self, name: str) -> None:
        if self._recent.pop(name, None) is None and (index := self._index(name)) is not None:
            self._alive[index] = False

    def names(self) -> Iterator[str]:
        yield from [*self._recent, *(self._name(index) for index in np.flatnonzero(self._alive))]

    def _index(self, name: str) -> int | None:
        value = hash(name)
        index = int(self._hashes.searchsorted(value))
        return index if index < len(self._hashes) and self._hashes[index] == value and self._alive[index] else None

    def _name(self, index: int | np.integer) -> str:
        return self._names[int(self._starts[index]) : int(self._ends[index])].decode("utf-8", "surrogateescape")

    def _merge(self) -> None:
        """Fold the small table into the sorted one. A name whose hash is taken already stays in the small one."""
        names, values = list(self._recent), list(self._recent.values())
        fresh = np.fromiter(map(hash, names), np.int64, len(names))
        _, first = np.unique(fresh, return_index=True)
        clash = np.isin(fresh, self._hashes[self._alive])
        clash[np.setdiff1d(np.arange(len(names)), first)] = True
        staying = {names[index]: values[index] for index in np.flatnonzero(clash).tolist()}
        moving = np.flatnonzero(~clash)
        encoded = [names[index].encode("utf-8", "surrogateescape") for index in moving.tolist()]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded))) + len(self._names)
        starts = np.concatenate((np.array([len(self._names)], np.int64), ends[:-1]))
        alive = self._alive
        hashes = np.concatenate((self._hashes[alive], fresh[moving]))
        order = np.argsort(hashes)
        self._stamps = np.concatenate((self._stamps[alive], np.array(values, np.int64)[moving]))[order]
        self._starts = np.concatenate((self._starts[alive], starts[: len(encoded)].astype(np.uint32)))[order]
        self._ends = np.concatenate((self._ends[alive], ends.astype(np.uint32)))[order]
        self._names += b"".join(encoded)
        self._hashes, self._alive, self._recent = hashes[order], np.ones(len(order), np.bool_), staying
        if len(self._names) > 65_536 + 2 * int((self._ends - self._starts).sum(dtype=np.int64)):
            self._tidy()

    def _tidy(self) -> None:
        """Names that were dropped leave their bytes behind; when they are more than half, copy the rest."""
        names = [self._names[start:end] for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True)]
        ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
        self._starts = np.concatenate((np.zeros(1, np.int64), ends[:-1])).astype(np.uint32)
        self._ends, self._names = ends.astype(np.uint32), b"".join(names)


class Roll:
    """One listing's roll call: which listed names are new, and which known ones were not listed in the end."""

    def __init__(self, known: KnownNames) -> None:
        self._known = known
        self._before = set(known._recent)  # noqa: SLF001 - two halves of one structure
        self._seen = np.zeros(len(known._hashes), np.bool_)  # noqa: SLF001
        known._listings += 1  # noqa: SLF001
        self._open = True

    def call(self, names: Sequence[str]) -> list[str]:
        """Mark `names` as listed and return those that are not known. Safe in the folder's thread."""
        known = self._known
        if len(known._hashes) and names:  # noqa: SLF001
            hashes = np.fromiter(map(hash, names), np.int64, len(names))
            index = np.minimum(np.searchsorted(known._hashes, hashes), len(known._hashes) - 1)  # noqa: SLF001
            hit = (known._hashes[index] == hashes) & known._alive[index]  # noqa: SLF001
            self._seen[index[hit]] = True
            rest: Iterable[str] = (names[position] for position in np.flatnonzero(~hit).tolist())
        else:
            rest = names
        recent, fresh = known._recent, []  # noqa: SLF001
        for name in rest:
            if name in recent:
                self._before.discard(name)
            else:
                fresh.append(name)
        return fresh

    def changed(self, names: Sequence[str], stamps: NDArray[np.int64]) -> list[str]:
        """Of listed names with their present stamps (0: not known), those that are known with another one."""
        known, found = self._known, []
        hit = np.zeros(len(names), np.bool_)
        if len(known._hashes) and names:  # noqa: SLF001
            hashes = np.fromiter(map(hash, names), np.int64, len(names))
            index = np.minimum(np.searchsorted(known._hashes, hashes), len(known._hashes) - 1)  # noqa: SLF001
            hit = (known._hashes[index] == hashes) & known._alive[index]  # noqa: SLF001
            before = known._stamps[index]  # noqa: SLF001
            differ = hit & (stamps != LISTED) & (before != LISTED) & (before != stamps)
            found = [names[position] for position in np.flatnonzero(differ).tolist()]
        recent = known._recent  # noqa: SLF001
        for position in np.flatnonzero(~hit).tolist():
            before_recent, present = recent.get(names[position]), int(stamps[position])
            if before_recent and present and before_recent != present:
                found.append(names[position])
        return found

    def missing(self) -> list[str]:
        """After a complete listing: the names known before it that it did not show."""
        known = self._known
        gone = np.flatnonzero(~self._seen & known._alive)  # noqa: SLF001
        return [*(name for name in self._before if name in known._recent), *(known._name(index) for index in gone)]  # noqa: SLF001

    def close(self) -> None:
        if self._open:
            self._open = False
            self._known._listings -= 1  # noqa: SLF001
