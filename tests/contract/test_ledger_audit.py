"""Who changed what: a row and an event in one transaction, told over HTTP, newest first."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.ledger_pages import opened as ledger_opened
from contract.web_station import FakeStation, ask, assert_problem, bearing, opened
from edged.errors import Unavailable
from edged.nouns import Change

OPERATOR = "operator-token-0123456789ab"


async def test_a_change_is_a_row_and_an_event_and_both_survive_a_restart(tmp_path: Path) -> None:
    async with ledger_opened(tmp_path) as ledger:
        await ledger.audit.tell(Change("a.meier", "operator", "cameras.pause", "cam1", {"paused": False}, {"paused": True}))
        await ledger.audit.tell(Change("a.meier", "operator", "cameras.resume", "cam1"))
    async with ledger_opened(tmp_path) as ledger:
        newest, cursor = await ledger.audit.read(None, 1)
        older, end = await ledger.audit.read(cursor, 1)
        events = await ledger.outbox.due("backlog", 10, 0, 2**62)
    assert [row["what"] for row in newest + older] == ["cameras.resume", "cameras.pause"]
    assert (older[0]["who"], older[0]["before"], older[0]["after"]) == ("a.meier", {"paused": False}, {"paused": True})
    assert end is None
    assert [event.topic.rpartition("/event/")[2] for event in events] == ["audit", "audit"]
    assert json.loads(events[0].body)["data"]["target"] == "cam1"


async def test_audit_rows_are_pruned_by_age_and_the_newest_stays(tmp_path: Path) -> None:
    async with ledger_opened(tmp_path) as ledger:
        for number in range(3):
            await ledger.audit.tell(Change("a.meier", "operator", "cameras.pause", f"cam{number}"))
    later = 40 * 86_400.0
    async with ledger_opened(tmp_path, retain_days=30, tick_s=0.05, monotonic=_jumping(later)) as ledger:
        for _ in range(100):
            rows, _ = await ledger.audit.read(None, 10)
            if len(rows) == 1:
                break
            await asyncio.sleep(0.05)
    assert [row["target"] for row in rows] == ["cam2"]


def _jumping(by_s: float) -> Callable[[], float]:
    """A monotonic clock that is far ahead from its second look on."""
    began, first = time.monotonic(), [True]

    def clock() -> float:
        if first:
            first.clear()
            return began
        return time.monotonic() + by_s

    return clock


async def test_what_is_done_over_http_is_audited_with_name_role_and_state_before_and_after(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"operator a.meier {OPERATOR}\n")
    station = FakeStation()
    async with opened(station, tokens_file=tokens) as url:
        await ask(url + "api/v1/models/die_defect/unload", "POST", headers=bearing(OPERATOR))
        status, body, _ = await ask(url + "api/v1/audit")
        refused, problem, _ = await ask(url + "api/v1/audit?after=nonsense")
    (row,) = body["changes"]
    assert (status, row["who"], row["role"], row["what"], row["target"]) == (200, "a.meier", "operator", "models.unload", "die_defect")
    assert row["before"] == {"3": "ready"}
    assert_problem(problem, 400)
    assert refused == 400


async def test_an_audit_that_cannot_be_written_is_no_quiet_success(tmp_path: Path) -> None:
    async with ledger_opened(tmp_path) as ledger:
        pass
    with pytest.raises(Unavailable):
        await ledger.audit.tell(Change("a.meier", "operator", "cameras.pause", "cam1"))
