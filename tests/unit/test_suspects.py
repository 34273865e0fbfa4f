"""Which image is to blame when a model hangs or Triton ends: only one that did it alone, three times, with the model proven well after."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from edged.inference.client import CallFailed
from edged.inference.suspects import FORGET_S, Suspects
from edged.nouns import Geometry, Tensor

WHOLE = Geometry(1.0, 1.0, 0.0, 0.0, (0.0, 0.0, 4.0, 4.0))


def image(shows: int) -> Tensor:
    return Tensor(0, np.full((1, 4, 4), shows, np.uint8), WHOLE, "ring", 0, 0, 16)


def died_alone(suspects: Suspects, times: int) -> None:
    for _ in range(times):
        suspects.died([image(1)], alone=True)
        suspects.nobodys_fault()  # that Triton is away is seen right after
        suspects.proven()


def test_three_deaths_of_triton_at_one_image_alone_are_its_doing_and_said_once() -> None:
    suspects = Suspects()
    died_alone(suspects, 2)
    assert not suspects.guilty(image(1))
    died_alone(suspects, 1)
    assert suspects.guilty(image(1)) == "deaths"
    assert not suspects.guilty(image(1)) and not suspects.suspected(image(1))


def test_who_was_there_in_company_is_suspected_and_never_guilty() -> None:
    suspects = Suspects()
    for _ in range(5):
        suspects.died([image(1), image(2)], alone=False)
        suspects.nobodys_fault()
        suspects.proven()
    assert suspects.suspected(image(1)) and suspects.suspected(image(2)) and not suspects.suspected(image(3))
    assert not suspects.guilty(image(1))


def test_a_death_counts_only_once_the_model_is_proven_well() -> None:
    suspects = Suspects()
    for _ in range(5):
        suspects.died([image(1)], alone=True)
    assert not suspects.guilty(image(1))


def test_a_lost_connection_to_a_triton_that_lives_counts_against_nobody() -> None:
    suspects = Suspects()
    for _ in range(5):
        suspects.died([image(1)], alone=True)
        assert suspects.deaths == 1
        suspects.survived()
        suspects.proven()
    assert not suspects.guilty(image(1))


def test_an_answer_clears_whoever_was_there_by_chance() -> None:
    suspects = Suspects()
    died_alone(suspects, 2)
    suspects.cleared(image(1))
    died_alone(suspects, 2)
    assert not suspects.guilty(image(1))


def test_what_hung_when_triton_went_is_forgotten_and_hangs_alone_are_not_mixed_with_deaths() -> None:
    suspects = Suspects()
    suspects.hung([image(1)], alone=True)
    suspects.nobodys_fault()
    assert not suspects.suspected(image(1))
    died_alone(suspects, 2)
    suspects.hung([image(1)], alone=True)
    suspects.proven()
    assert not suspects.guilty(image(1))
    for _ in range(2):
        suspects.hung([image(1)], alone=True)
        suspects.proven()
    assert suspects.guilty(image(1)) == "hangs"


def test_a_suspect_whose_file_was_taken_away_is_forgotten() -> None:
    now = [0.0]
    suspects = Suspects(lambda: now[0])
    died_alone(suspects, 1)
    now[0] = FORGET_S + 1
    assert not suspects.suspected(image(1)) and len(suspects) == 0


@pytest.mark.parametrize(
    ("code", "words", "died"),
    [
        (grpc.StatusCode.UNKNOWN, "Stream removed (Socket closed)", True),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", True),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection reset by peer", False),
        (grpc.StatusCode.UNAVAILABLE, "keepalive watchdog timeout", False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", False),
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy: Socket closed", False),  # Triton itself says so
    ],
)
def test_only_a_server_whose_process_went_has_died(code: grpc.StatusCode, words: str, died: bool) -> None:
    assert CallFailed(code, words).died is died
