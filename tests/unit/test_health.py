"""The health board: transitions, the station as a whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from edged.nouns import HealthStatus
from edged.vitals.health import HealthBoard, headline

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        return self.time

    def pass_s(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def a_well_board(clock: Clock | None = None) -> HealthBoard:
    board = HealthBoard(now=clock or Clock())
    for name in ("triton", "broker", "ledger", "disk", "folder:cam1"):
        board.report(name, HealthStatus.OK)
    return board


def test_each_transition_is_logged_exactly_once_with_its_cause() -> None:
    with capture_logs() as logs:
        board = HealthBoard(now=Clock())
        board.report("broker", HealthStatus.OK)
        for _ in range(5):
            board.report("broker", HealthStatus.DOWN, "connection refused", "start mosquitto")
        board.report("broker", HealthStatus.OK)
    assert logs == [
        {"event": "health.changed", "log_level": "info", "item": "broker", "status": "ok", "was": None, "cause": "", "hint": ""},
        {
            "event": "health.changed",
            "log_level": "warning",
            "item": "broker",
            "status": "down",
            "was": "ok",
            "cause": "connection refused",
            "hint": "start mosquitto",
        },
        {"event": "health.changed", "log_level": "info", "item": "broker", "status": "ok", "was": "down", "cause": "", "hint": ""},
    ]


def test_since_is_when_the_status_began_and_a_new_cause_keeps_it() -> None:
    clock = Clock()
    board = HealthBoard(now=clock)
    board.report("broker", HealthStatus.DOWN, "connection refused")
    clock.pass_s(60)
    board.report("broker", HealthStatus.DOWN, "wrong password", attempts=3)
    (item,) = board.items()
    assert (item.cause, item.since, item.facts) == ("wrong password", NOON, {"attempts": 3})
    board.report("broker", HealthStatus.OK)
    assert board.items()[0].since == NOON + timedelta(seconds=60)


def test_a_listener_hears_of_transitions_only() -> None:
    heard = []
    board = HealthBoard(now=Clock())
    board.listen(lambda item: heard.append((item.name, item.status)))
    for status in (HealthStatus.OK, HealthStatus.OK, HealthStatus.DOWN, HealthStatus.DOWN):
        board.report("triton", status)
    assert heard == [("triton", HealthStatus.OK), ("triton", HealthStatus.DOWN)]


def test_a_station_whose_parts_all_work_is_ok_and_ready() -> None:
    overall = a_well_board().overall()
    assert (overall.status, overall.facts["ready"], overall.facts["others"]) == (HealthStatus.OK, True, [])


@pytest.mark.parametrize("name", ["broker", "clock", "http", "gpu"])
def test_without_what_no_verdict_needs_the_station_is_degraded_but_ready(name: str) -> None:
    board = a_well_board()
    board.report(name, HealthStatus.DOWN, "It is away.", "Fetch it.")
    overall = board.overall()
    assert (overall.status, overall.facts["ready"], overall.cause, overall.hint) == (
        HealthStatus.DEGRADED,
        True,
        "It is away.",
        "Fetch it.",
    )


@pytest.mark.parametrize("name", ["triton", "ledger", "disk", "folder:cam1", "recipe:adi"])
def test_without_what_a_verdict_needs_the_station_is_down_and_not_ready(name: str) -> None:
    board = a_well_board()
    board.report(name, HealthStatus.DOWN, "It is away.")
    assert (board.overall().status, board.overall().facts["ready"]) == (HealthStatus.DOWN, False)


def test_the_cause_of_the_others_is_named_first() -> None:
    board = a_well_board()
    board.report("recipe:adi", HealthStatus.DOWN, "The model is not loaded.")
    board.report("broker", HealthStatus.DOWN, "The broker is away.")
    board.report("triton", HealthStatus.DOWN, "Triton does not answer.")
    overall = board.overall()
    assert (overall.cause, overall.facts["item"], overall.facts["others"]) == (
        "Triton does not answer.",
        "triton",
        ["recipe:adi", "broker"],
    )


def test_a_fault_is_named_before_an_earlier_kind_that_only_needs_attention() -> None:
    board = a_well_board()
    board.report("ledger", HealthStatus.DEGRADED, "The ledger is slow.")
    board.report("folder:cam1", HealthStatus.DOWN, "The share is away.")
    assert board.overall().cause == "The share is away."


def test_a_station_without_a_gpu_is_well() -> None:
    board = a_well_board()
    board.report("gpu", HealthStatus.UNKNOWN, "no GPU: no driver")
    assert (board.overall().status, board.overall().facts["ready"]) == (HealthStatus.OK, True)


def test_until_all_that_is_needed_was_heard_from_the_station_is_starting() -> None:
    board = HealthBoard(needs=("ledger", "triton"), now=Clock())
    board.report("ledger", HealthStatus.OK)
    board.report("folder:cam1", HealthStatus.UNKNOWN)
    overall = board.overall()
    assert (overall.status, overall.facts["ready"]) == (HealthStatus.UNKNOWN, False)
    assert overall.cause == "Starting: not yet known of Triton, Folder of cam1."
    board.report("triton", HealthStatus.OK)
    board.report("folder:cam1", HealthStatus.OK)
    assert board.overall().status is HealthStatus.OK


def test_a_removed_camera_no_longer_counts() -> None:
    board = a_well_board()
    board.report("folder:cam2", HealthStatus.DOWN, "gone")
    board.forget("folder:cam2")
    assert board.overall().status is HealthStatus.OK


def test_an_item_without_a_cause_still_makes_a_sentence() -> None:
    board = a_well_board()
    board.report("folder:cam1", HealthStatus.DOWN, hint="Mount it.")
    assert headline(board.overall()) == "down: Folder of cam1 is down. Mount it."
