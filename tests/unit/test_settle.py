"""When a file counts as settled: stillness by a monotonic clock and a whole structure, never one without the other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.intake.settle import Look, Patience, Phase, Progress, next_look, step, worth_examining
from edged.intake.window import Grade, Structure

PATIENCE = Patience(quiet_s=0.25, doubt_s=2.0, give_up_s=10.0)
WHOLE = Structure.complete()


def broken(at: int) -> Structure:
    return Structure(Grade.INCOMPLETE, at, "no end")


def play(*looks: tuple[float, int, Structure | None]) -> Progress:
    progress = None
    for at, mtime, structure in looks:
        progress = step(progress, Look(at, (100, mtime, 7), structure), PATIENCE)
    assert progress is not None
    return progress


def test_one_look_never_settles_a_file() -> None:
    assert play((0.0, 1, WHOLE)).phase is Phase.WAITING


def test_two_looks_apart_at_a_whole_unchanged_file_settle_it() -> None:
    assert play((0.0, 1, None), (0.25, 1, WHOLE)).phase is Phase.SETTLED


def test_a_whole_file_that_changed_between_the_looks_waits_again() -> None:
    assert play((0.0, 1, None), (0.25, 2, WHOLE)).phase is Phase.WAITING
    assert play((0.0, 1, None), (0.25, 2, WHOLE), (0.5, 2, WHOLE)).phase is Phase.SETTLED


def test_a_doubtful_structure_needs_the_longer_stillness() -> None:
    doubt = Structure(Grade.SUSPECT, 50, "zeros")
    assert play((0.0, 1, None), (1.0, 1, doubt)).phase is Phase.WAITING
    assert play((0.0, 1, None), (1.0, 1, doubt), (2.0, 1, doubt)).phase is Phase.SETTLED


def test_an_incomplete_file_is_given_up_only_after_it_stood_still_long_enough() -> None:
    assert play((0.0, 1, None), (9.9, 1, broken(50))).phase is Phase.WRITING
    assert play((0.0, 1, None), (5.0, 1, broken(50)), (10.0, 1, broken(50))).phase is Phase.GAVE_UP


def test_a_preallocated_file_whose_break_moves_is_not_given_up_though_size_and_mtime_stand_still() -> None:
    looks = [(float(second), 1, broken(second)) for second in range(0, 60, 5)]
    assert play(*looks).phase is Phase.WRITING


def test_a_preallocated_file_that_becomes_whole_waits_for_stillness_once_more() -> None:
    assert play((0.0, 1, broken(50)), (5.0, 1, WHOLE)).phase is Phase.WAITING
    assert play((0.0, 1, broken(50)), (5.0, 1, WHOLE), (5.25, 1, WHOLE)).phase is Phase.SETTLED


def test_a_whole_file_that_breaks_under_the_same_stamp_is_not_given_up_at_once() -> None:
    assert play((0.0, 1, None), (9.0, 1, WHOLE), (10.0, 1, broken(0))).phase is Phase.WRITING


structures = st.one_of(
    st.none(),
    st.just(WHOLE),
    st.integers(0, 3).map(broken),
    st.integers(0, 3).map(lambda at: Structure(Grade.SUSPECT, at, "zeros")),
    st.just(Structure(Grade.UNKNOWN, 0, "no format")),
)
histories = st.lists(st.tuples(st.floats(0.001, 12.0), st.integers(0, 2), st.integers(0, 2), structures), min_size=1, max_size=30)


@settings(max_examples=60)
@given(histories)
def test_whatever_happens_settled_means_still_and_whole(history: list[tuple[float, int, int, Structure | None]]) -> None:
    now, progress, looks = 0.0, None, []
    for gap, size, mtime, structure in history:
        now += gap
        look = Look(now, (size, mtime, 1), structure)
        looks.append(look)
        progress = step(progress, look, PATIENCE)
        if structure is None:
            continue
        same = [look]
        for earlier in reversed(looks[:-1]):
            if earlier.stamp != look.stamp:
                break
            same.append(earlier)
        still_s = now - same[-1].at
        if progress.phase is Phase.SETTLED:
            assert structure.grade is not Grade.INCOMPLETE
            assert len(same) > 1
            assert still_s >= (PATIENCE.quiet_s if structure.grade is Grade.COMPLETE else PATIENCE.doubt_s)
        if progress.phase is Phase.GAVE_UP:
            assert structure.grade is Grade.INCOMPLETE
            assert still_s >= PATIENCE.give_up_s
            recent = [look for look in same if now - look.at < PATIENCE.give_up_s and look.structure is not None]
            assert {(look.structure.grade, look.structure.at) for look in recent if look.structure} <= {(structure.grade, structure.at)}


@settings(max_examples=40)
@given(st.integers(1, 10), st.floats(0.05, 3.0), st.sampled_from([WHOLE, Structure(Grade.SUSPECT, 3, "zeros"), broken(9)]))
def test_a_file_left_alone_always_comes_to_an_end_by_its_own_schedule(changes: int, poll_s: float, structure: Structure) -> None:
    now, progress = 0.0, None
    for mtime in range(changes):
        now += 0.1
        progress = step(progress, Look(now, (1, mtime, 1), None), PATIENCE)
    assert progress is not None
    begun = now
    for _ in range(5000):
        now = next_look(progress, now, PATIENCE, poll_s)
        seen = structure if worth_examining(progress, now, PATIENCE) else None
        progress = step(progress, Look(now, progress.stamp, seen), PATIENCE)
        if progress.phase in (Phase.SETTLED, Phase.GAVE_UP):
            break
    assert progress.phase is (Phase.GAVE_UP if structure.grade is Grade.INCOMPLETE else Phase.SETTLED)
    assert now - begun <= PATIENCE.give_up_s + 2 * poll_s + PATIENCE.doubt_s
