"""The oracle of every fault: what was dropped, what the ledger holds, what the MES got."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rigs.mes import Arrival

KINDS = ("result", "wafer", "event")
Image = tuple[str, bytes, str]
"""(camera, path below its folder, sha256)"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row of the ledger: a page's verdict. `at`: the wall clock (s) of its landing's record."""

    id: str
    image: Image
    page: int
    judgement: int
    verdict: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Tally:
    """`images`: dropped. `recorded`: of those, with a verdict. `lost`: without one, or never heard of by the MES. `doubled`: verdicts too
    many. `strange`: verdicts for what nobody dropped. `gaps`: numbers missing at the MES. `two_bodies`: ids that came with two bodies."""

    images: int
    recorded: int
    lost: int
    doubled: int
    strange: int
    gaps: int
    two_bodies: int
    verdicts: Mapping[str, int]

    @property
    def well(self) -> bool:
        return not (self.lost or self.doubled or self.strange or self.gaps or self.two_bodies)


def rows(ledger: Path) -> list[Recorded]:
    """Every verdict; [] while there is no ledger, or nothing in it, yet."""
    if not ledger.exists():
        return []
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'result'").fetchone():
            return []
        found = connection.execute(
            "SELECT m.id, l.camera, l.path, coalesce(hex(l.sha256), ''), r.page, r.judgement, r.verdict, r.reason, l.recorded "
            "FROM result r JOIN landing l ON l.landing = r.landing JOIN message m ON m.message = r.message"
        ).fetchall()
    return [Recorded(i, (c, bytes(p), s.lower()), page, j, v, why, at) for i, c, p, s, page, j, v, why, at in found]


def tally(
    dropped: Mapping[Image, int],
    recorded: Sequence[Recorded],
    arrivals: Iterable[Arrival],
    counted: Mapping[tuple[str, str], int] | None = None,
    kinds: Container[str] = KINDS,
) -> Tally:
    """`dropped`: image -> its pages. `counted`: (epoch, kind) -> the number up to which was counted before. `kinds`: of which
    no number may be missing.

    Re-judgements are verdicts of their own and do not count as doubled.
    """
    before = counted or {}
    ids: defaultdict[tuple[Image, int], set[str]] = defaultdict(set)
    for row in recorded:
        if row.judgement == 0:
            ids[row.image, row.page].add(row.id)
    heard: defaultdict[str, set[bytes]] = defaultdict(set)
    numbers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for arrival in arrivals:
        heard[arrival.id].add(arrival.body)
        if arrival.kind in kinds and arrival.sequence > before.get((arrival.epoch, arrival.kind), 0):
            numbers[arrival.epoch, arrival.kind].add(arrival.sequence)
    wanted = {(image, page) for image, pages in dropped.items() for page in range(pages)}
    lost = sum(not any(id_ in heard for id_ in ids.get(each, ())) for each in wanted)
    return Tally(
        images=len(wanted),
        recorded=sum(each in ids for each in wanted),
        lost=lost,
        doubled=sum(len(found) - 1 for found in ids.values()),
        strange=len(ids.keys() - wanted),
        gaps=sum(max(there) - before.get(key, 0) - len(there) for key, there in numbers.items()),
        two_bodies=sum(len(bodies) > 1 for bodies in heard.values()),
        verdicts=Counter(row.verdict for row in recorded),
    )
