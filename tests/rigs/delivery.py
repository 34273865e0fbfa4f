"""The oracle of the outbox alone: what the ledger holds against what the MES got."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rigs.mes import Arrival


@dataclass(frozen=True, slots=True)
class Delivery:
    """`rows`: results in the ledger. `lost`: never heard of by the MES. `two_bodies`: ids that came with another body than the ledger's.
    `sent`: how many arrived in all. `open`: rows whose delivery is not confirmed."""

    rows: int
    lost: int
    two_bodies: int
    sent: int
    open: int


def delivery(ledger: Path, arrivals: Iterable[Arrival]) -> Delivery:
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
        stored = {id_: bytes(body) for id_, body in connection.execute("SELECT id, body FROM message WHERE kind = 'result'")}
        (still,) = connection.execute(
            "SELECT count(*) FROM outbox o JOIN message m ON m.message = o.message WHERE m.kind = 'result' AND o.state < 4"
        ).fetchone()
    heard: defaultdict[str, set[bytes]] = defaultdict(set)
    sent = 0
    for arrival in arrivals:
        if arrival.kind == "result":
            sent += 1
            heard[arrival.id].add(arrival.body)
    lost = sum(id_ not in heard for id_ in stored)
    return Delivery(len(stored), lost, sum(bodies != {stored.get(id_)} for id_, bodies in heard.items()), sent, still)
