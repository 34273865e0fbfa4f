"""The compact memory of names behaves as a plain dictionary would, at a tenth of its size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.intake import known
from edged.intake.known import LISTED, KnownNames, Roll, stamp

common = st.sampled_from(["\udcff\udc80.png", "a", "b", "c"])
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=4) | common
verbs = st.sampled_from(["put", "drop", "merge", "begin", "list", "end"])
actions = st.lists(st.tuples(verbs, names, st.integers(-(2**62), 2**62)), max_size=60)


@settings(max_examples=100)
@given(actions)
def test_it_answers_as_a_dictionary_does_whatever_happens_while_a_listing_is_under_way(steps: list[tuple[str, str, int]]) -> None:
    table, model = KnownNames(), dict[str, int]()
    roll, before, listed = Roll(table), set[str](), set[str]()
    for action, name, value in steps:
        if action == "put":
            table.put(name, value)
            model[name] = value
        elif action == "drop":
            table.drop(name)
            model.pop(name, None)
        elif action == "merge":
            table.merge()
        elif action == "begin":
            roll, before, listed = Roll(table), set(model), set()
        elif action == "list":
            piece = [each for each in sorted(model) if hash(each) % 3] + [name]
            assert set(roll.call(piece)) == set(piece) - set(model)
            listed.update(piece)
        else:
            assert sorted(roll.missing()) == sorted((before & set(model)) - listed)
        assert table.get(name) == model.get(name)
        assert len(table) == len(model)
    assert set(table.names()) == set(model)
    assert {name: table.get(name) for name in model} == model


def test_many_names_are_merged_found_and_tidied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_MERGE_AT", 100)
    table = KnownNames()
    for number in range(5000):
        table.put(f"image_{number}.png", stamp(number, number))
    assert len(table.recent) < 2000
    for number in range(0, 5000, 2):
        table.drop(f"image_{number}.png")
    for number in range(5000, 9000):
        table.put(f"image_{number}.png", stamp(number, number))
    assert len(table) == 6500
    assert all(table.get(f"image_{number}.png") == stamp(number, number) for number in range(1, 5000, 2))
    assert all(table.get(f"image_{number}.png") is None for number in range(0, 5000, 2))


def test_a_stat_pass_names_exactly_the_files_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(known, "_MERGE_AT", 4)
    table = KnownNames()
    for number in range(10):
        table.put(str(number), stamp(number, 1))
    table.put("waits", LISTED)
    roll = Roll(table)
    listed = [*map(str, range(10)), "waits", "new"]
    stamps = np.array([stamp(number, 1 + (number in (2, 9))) for number in range(10)] + [stamp(1, 1), stamp(2, 2)], np.int64)
    assert roll.changed(listed, stamps) == ["2", "9"]


def test_names_put_while_a_listing_is_under_way_are_not_called_missing() -> None:
    table = KnownNames()
    table.put("old", 1)
    roll = Roll(table)
    table.put("new", 1)
    roll.call([])
    assert roll.missing() == ["old"]
