"""How often a client may ask for changes: a burst, then an even pace; clients do not pay for each other."""

from __future__ import annotations

from edged.web.pace import BURST, CLIENTS, PER_S, Pace


def test_a_burst_is_taken_at_once_and_then_an_even_pace() -> None:
    now = [1000.0]
    pace = Pace(lambda: now[0])
    assert [pace.wait_s("a") for _ in range(BURST)] == [0.0] * BURST
    assert 0 < pace.wait_s("a") <= 1 / PER_S + 1e-6
    assert pace.wait_s("b") == 0.0
    taken = 0
    for _ in range(1000):
        now[0] += 0.01
        taken += pace.wait_s("a") == 0.0
    assert abs(taken - 10 * PER_S) <= 1
    now[0] += 3600
    assert sum(pace.wait_s("a") == 0.0 for _ in range(2 * BURST)) == BURST


def test_what_is_remembered_of_clients_is_bounded() -> None:
    pace = Pace(lambda: 0.0)
    for number in range(CLIENTS + 50):
        pace.wait_s(str(number))
    assert len(pace._rested) == CLIENTS
