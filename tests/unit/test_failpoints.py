"""Failpoints: named, listed, armed by one word of the environment, and free when nobody arms them."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import edged
from edged.errors import ConfigError
from edged.failpoints import POINTS, Failpoint, arm, reach


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm("")


def calls() -> set[str]:
    """The names with which the source calls `reach`."""
    found = set()
    for file in Path(edged.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{file}: a failpoint is named by a text of its own"
                found.add(str(name.value))
    return found


def test_the_list_names_every_point_of_the_source_and_no_other() -> None:
    assert calls() == set(POINTS)


def test_a_point_acts_at_its_hit_and_for_its_image_only() -> None:
    assert arm("image.judged[a.png]=raise@2, ledger.committed=delay:0.01") == ("image.judged", "ledger.committed")
    for _ in range(5):
        reach("image.judged", b"b.png")
    reach("image.judged", b"a.png")
    with pytest.raises(Failpoint):
        reach("image.judged", b"a.png")
    reach("image.judged", b"a.png")
    began = time.monotonic()
    reach("ledger.committed")
    assert time.monotonic() - began >= 0.01


def test_with_a_plus_it_acts_from_then_on() -> None:
    arm("image.taken=raise@2+")
    reach("image.taken")
    for _ in range(2):
        with pytest.raises(Failpoint):
            reach("image.taken")


@pytest.mark.parametrize("text", ["nowhere=kill", "image.taken", "image.taken=shout", "image.taken=kill@0", "image.taken=delay:x"])
def test_a_word_that_is_no_failpoint_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="EDGED_FAILPOINTS"):
        arm(text)


def test_killed_at_a_point_the_process_does_not_come_past_it() -> None:
    code = (
        "from edged.failpoints import arm, reach; arm('image.taken=kill@2')\n"
        "for said in ('once', 'twice'): reach('image.taken'); print(said, flush=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(edged.__file__).parents[1])
    assert (ended.returncode, ended.stdout) == (-9, "once\n")


def test_unarmed_a_point_costs_less_than_a_microsecond() -> None:
    count = 20_000
    best = min(_timed(count) for _ in range(5))
    assert best / count < 1e-6


def _timed(count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        reach("image.taken", b"a.png")
    return time.perf_counter() - began
