"""Whether every number is accounted for, and every message is what was written. Functions of a connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from edged.ledger.identity import content_hash, landing_hash, place_hash
from edged.ledger.rows import checksum, landing_checksum, read_ns, sealed
from edged.ledger.schema import SALVAGED, WAYS

Range = tuple[int, int]


def damaged_messages(connection: sqlite3.Connection) -> Iterator[int]:
    """Rows of messages that read and are not what was written."""
    rows = connection.execute(
        "SELECT m.message, m.checksum, m.kind, m.epoch, m.sequence, m.id, t.name, m.properties, m.body FROM message m "
        "JOIN topic t ON t.topic = m.topic ORDER BY m.message"
    )
    for message, check, *row in rows:
        if not is_sound(check, *row):
            yield message


def is_sound(check: int | None, *row: Any) -> bool:
    """`row` as `rows.checksum` takes it."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        if check is not None:
            return checksum(*row) == check
        kind, epoch, sequence, id_, *_, body = row
        said = json.loads(body)  # recorded by an edged that made no checksums: it says of itself what it is
        return (said["kind"], said["epoch"], int(said["sequence"]), said["id"]) == (kind, epoch, sequence, id_)
    return False


def damaged_landings(connection: sqlite3.Connection) -> Iterator[int]:
    """Rows of landings that read and are not what was written."""
    for check, *row in connection.execute(f"SELECT checksum, {sealed('landing')} FROM landing ORDER BY landing"):  # noqa: S608 - our own names
        if (check is not None and check != landing_checksum(*row)) or not _agrees(row):
            yield row[0]


def _agrees(row: Sequence[Any]) -> bool:
    """Of a landing whose edged may have made no checksum: its hashes agree with what they are of. One that was salvaged has only what its
    result's message says."""
    _, key, place, _, content, camera, path, size, mtime_ns, sha256, how, *_ = row
    with suppress(TypeError, ValueError, AttributeError):
        name, way = camera.decode(), how.decode()
        places = (place_hash(name, path), content_hash(sha256) if sha256 else None)
        whole = way == SALVAGED or landing_hash(name, path, size, read_ns(mtime_ns)) == key
        return whole and way in WAYS and places == (place, content)
    return False


def numbers_there(connection: sqlite3.Connection, epoch: str, kind: str) -> tuple[list[Range], list[Range]]:
    """The numbers that are here, as ranges, and those that are rightly not."""
    there: list[Range] = []
    for (number,) in connection.execute("SELECT sequence FROM message WHERE kind = ? AND epoch = ? ORDER BY sequence", (kind, epoch)):
        if there and there[-1][1] == number - 1:
            there[-1] = (there[-1][0], number)
        else:
            there.append((number, number))
    accounted = connection.execute("SELECT first, last FROM absent WHERE kind = ? AND epoch = ? ORDER BY first", (kind, epoch)).fetchall()
    return there, [(int(first), int(last)) for first, last in accounted]


def gaps(ranges: Iterable[Range], first: int, last: int) -> list[list[int]]:
    """What of `first`..`last` no range covers; the ranges in order."""
    found, expected = [], first
    for low, high in ranges:
        if low > expected:
            found.append([expected, min(low - 1, last)])
        expected = max(expected, high + 1)
    if expected <= last:
        found.append([expected, last])
    return found
