"""Whom the publisher blames for a lost connection: a row is condemned on three losses that only it can explain."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from contract.publisher_outbox import MemoryOutbox
from edged.config.peers import Mqtt
from edged.nouns import OutboxRow
from edged.plant.client import Connection, Loss
from edged.plant.publisher import ACQUITTAL_S, Publisher

DROPPED = Loss("the connection was lost")
SILENT = Loss("it no longer answers", silent=True)


class Ended:
    """What is left of a connection once it is lost."""

    def __init__(self, loss: Loss, outstanding: int = 1, answered: bool = True) -> None:
        self.lost: asyncio.Future[Loss] = asyncio.get_running_loop().create_future()
        self.lost.set_result(loss)
        self.outstanding_at_loss, self.answered = outstanding, answered


class Case:
    def __init__(self, rows: int = 1) -> None:
        self.now = 0.0
        self.outbox = MemoryOutbox()
        for _ in range(rows):
            self.outbox.put()
        self.publisher = Publisher(Mqtt(), self.outbox, monotonic=lambda: self.now)
        self.rows: list[OutboxRow] = []

    async def lose(self, loss: Loss = DROPPED, row: int = 0, **how: Any) -> None:
        await self.publisher.after_loss(cast("Connection", Ended(loss, **how)), [self.rows[row]])

    def strikes(self, row: int = 0) -> int:
        return self.outbox.entries[self.rows[row].row].strikes

    def state(self, row: int = 0) -> str:
        return self.outbox.entries[self.rows[row].row].state


@pytest.fixture
async def case() -> Case:
    made = Case(rows=20)
    made.rows = await made.outbox.due("backlog", 100, 0, 20)
    return made


async def test_three_losses_with_only_this_row_on_its_way_condemn_it(case: Case) -> None:
    for _ in range(2):
        await case.lose()
    assert case.state() == "due"
    await case.lose()
    assert case.state() == "parked"
    ((kind, data),) = case.outbox.said
    assert kind == "row-parked" and "3 times" in data["reason"] and data["sequences"] == [[1, 1]]
    assert case.rows[0].row not in case.publisher.suspects
    assert case.publisher.topics.parked == 1


@pytest.mark.parametrize(
    "how", [{"outstanding": 2}, {"answered": False}, {"loss": Loss("it is shutting down", excused=True)}, {"loss": Loss()}]
)
async def test_a_loss_that_something_else_may_explain_counts_against_nobody(case: Case, how: dict[str, Any]) -> None:
    for _ in range(5):
        await case.lose(**how)
    assert case.strikes() == 0 and case.state() == "due"


async def test_a_broker_that_fell_silent_and_cannot_be_reached_next_accuses_nobody(case: Case) -> None:
    for _ in range(5):
        await case.lose(SILENT)
        case.publisher.unreachable()
        await case.publisher.reached()
    assert case.strikes() == 0


async def test_a_failed_try_excuses_the_row_even_if_the_loss_is_taken_in_after_it(case: Case) -> None:
    for _ in range(5):
        case.publisher.unreachable()
        await case.lose(SILENT)  # the disk was slow
        await case.publisher.reached()
    assert case.strikes() == 0


async def test_a_row_on_which_the_broker_falls_silent_and_is_there_again_at_once_is_condemned(case: Case) -> None:
    for _ in range(3):
        await case.lose(SILENT)
        await case.publisher.reached()
    assert case.state() == "parked"


async def test_rows_accused_and_then_taken_show_a_bad_line_and_raise_the_three_for_a_while(case: Case) -> None:
    for row in range(1, 5):
        await case.lose(row=row)
        case.publisher.taken(case.rows[row])
    for _ in range(6):
        await case.lose()
    assert (case.strikes(), case.state()) == (6, "due")
    await case.lose()
    assert case.state() == "parked"  # three, and one for each of the four
    case.now += ACQUITTAL_S + 1
    for _ in range(3):
        await case.lose(row=10)
    assert case.state(10) == "parked"


async def test_however_bad_the_line_a_row_is_condemned_in_the_end(case: Case) -> None:
    for row in range(1, 20):
        await case.lose(row=row)
        case.publisher.taken(case.rows[row])
    for _ in range(12):
        await case.lose()
    assert case.state() == "parked"
