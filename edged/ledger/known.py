"""Which files are recorded already: 8 bytes a file in memory, so that a scan of a million names asks no database.

Invariants
- A key here means: recorded, and not seen gone since. One that is missing costs a judgement that the ledger then knows; it loses nothing.
- Two files share a key with probability 5e-14 for each new file beside a million known ones; the key has 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MERGE_AT = 8192


class KnownKeys:
    def __init__(self, keys: Iterable[int] = (), count: int = -1) -> None:
        self._sorted: NDArray[np.int64] = np.fromiter(keys, np.int64, count)
        self._sorted.sort()
        self._recent: set[int] = set()
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) - len(self._gone) + len(self._recent)

    def add(self, key: int) -> None:
        self._gone.discard(key)
        if not self._listed(key):
            self._recent.add(key)
            if len(self._recent) >= max(MERGE_AT, len(self._sorted) // 16):
                self._merge()

    def drop(self, key: int) -> None:
        self._recent.discard(key)
        if self._listed(key):
            self._gone.add(key)
            if len(self._gone) >= max(MERGE_AT, len(self._sorted) // 16):
                self._merge()

    def found(self, keys: Sequence[int]) -> set[int]:
        """The indexes of those that are known. May run in another thread than `add` and `drop`."""
        table, recent, gone = self._sorted, self._recent, self._gone
        if not len(table):
            return {index for index, key in enumerate(keys) if key in recent}
        wanted = np.fromiter(keys, np.int64, len(keys))
        at = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
        hit = table[at] == wanted
        return {index for index, key in enumerate(keys) if key in recent or (hit[index] and key not in gone)}

    def _listed(self, key: int) -> bool:
        at = int(self._sorted.searchsorted(key))
        return at < len(self._sorted) and int(self._sorted[at]) == key

    def _merge(self) -> None:
        kept = self._sorted
        if self._gone:
            kept = kept[~np.isin(kept, np.fromiter(self._gone, np.int64, len(self._gone)))]
        merged = np.concatenate((kept, np.fromiter(self._recent, np.int64, len(self._recent))))
        merged.sort()
        # New objects: a reader in another thread keeps the ones it took.
        self._sorted, self._recent, self._gone = merged, set(), set()
