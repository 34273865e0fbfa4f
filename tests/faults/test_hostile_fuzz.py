"""Mutated images without end: no input ends the daemon's side, each that ends a decoder is filed, and no parser of ours goes astray.

Inputs follow from seed numbers: fixed ones, and one that is new each time and printed. What ended a decoder is kept; its path is printed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.decoder_images import Notes, landing, plan
from edged.config import Decode
from edged.errors import FrameRejected, Unavailable
from edged.intake.completeness import Grade, check
from edged.nouns import HealthStatus
from edged.vision.decoders import Decoders
from edged.vision.headers import Limits, inspect
from edged.vision.outcomes import ChangedUnderway, Rejected
from rigs.faults import Fault
from rigs.mutations import mutated, seeds

FIXED_SEEDS = (20261127, 4711)
ASKERS = 24
LIMITS = Limits(1 << 29, 200_000_000, 65_500, 100)
REASONS = {"judged", "corrupt", "format", "too-large", "empty", "too-many-pages", "decoder-died", "low-quality"}


@dataclass(slots=True)
class Found:
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    filed: list[Path] = field(default_factory=list)
    deaths: int = 0

    @property
    def inputs(self) -> int:
        return self.outcomes.total()


def inputs(new_seed: int) -> Iterator[tuple[str, bytes]]:
    """Of the fixed seeds and the new one by turns."""
    chances = [random.Random(seed) for seed in (*FIXED_SEEDS, new_seed)]
    for chance in itertools.cycle(chances):
        yield mutated(chance)


async def outcome(running: Decoders, path: Path) -> str:
    rejected = 0
    try:
        async for part in running.prepare(landing(path), "r", [plan()], None):
            rejected += part.rejected is not None
            for tensor in part.tensors:
                running.release(tensor)
    except Rejected as error:
        return error.reason
    except (ChangedUnderway, FileNotFoundError, Unavailable) as error:
        return type(error).__name__
    return "judged"


async def fuzz(for_s: float, new_seed: int, crashes: Path) -> Found:
    """Through the real decoder processes, as landings come."""
    found, board, end = Found(), Notes(), time.monotonic() + for_s
    source = inputs(new_seed)

    async def ask(folder: Path, number: int) -> None:
        for turn in itertools.count():
            if time.monotonic() > end:
                return
            name, data = next(source)
            path = folder / f"{number}-{turn}"
            path.write_bytes(data)
            began = time.monotonic()
            said = await outcome(running, path)
            found.outcomes[said] += 1
            found.slowest = max(found.slowest, (time.monotonic() - began, f"{name}: {said}"))
            if said not in REASONS or any(status is HealthStatus.DEGRADED and f"'{path.name}'" in cause for _, status, cause in board.said):
                crashes.mkdir(parents=True, exist_ok=True)
                kept = crashes / f"{said}-{number}-{turn}-{name}"
                kept.write_bytes(data)
                found.filed.append(kept)
            path.unlink()

    with tempfile.TemporaryDirectory(prefix="edged-fuzz-", dir="/dev/shm") as place:
        async with Decoders(Decode(processes=2, slots=2 * ASKERS, timeout_s=10), {}, board) as running:
            await asyncio.gather(*(ask(Path(place), number) for number in range(ASKERS)))
            found.deaths = running.snapshot().deaths
            assert all(free == slots for _, slots, free in running.snapshot().rings)
    return found


def run(for_s: float, fault: Fault, tmp_path_factory: pytest.TempPathFactory) -> None:
    new_seed = int.from_bytes(os.urandom(4), "big")
    crashes = Path(tempfile.gettempdir(), "edged-fuzz-crashes", str(new_seed))
    began = time.monotonic()
    found = asyncio.run(fuzz(for_s, new_seed, crashes))
    took_s = time.monotonic() - began
    print(
        f"\nfuzz: seeds {FIXED_SEEDS} and {new_seed}; {found.inputs} inputs, {found.inputs / took_s:.0f} a second; {dict(found.outcomes)}"
    )
    print(f"fuzz: slowest {found.slowest}; decoder deaths {found.deaths}; filed: {[str(path) for path in found.filed]}")
    note = f"{found.inputs / took_s:.0f} a second, {found.deaths} decoders ended, slowest {found.slowest[0]:.2f} s, new seed {new_seed}"
    unanswered = sum(count for said, count in found.outcomes.items() if said not in REASONS)
    assert found.outcomes["judged"] > found.inputs / 50 and found.outcomes["corrupt"] > found.inputs / 20
    assert len(found.filed) >= bool(found.deaths), "a decoder ended and its input is not filed"
    how = "seeds of every format, mutated by structure; lost: without an answer"
    fault.row(how=how, images=found.inputs, lost=unanswered, doubled=0, note=note)


@pytest.mark.fault("mutation fuzzing", matrix=(42,))
def test_ten_seconds_of_mutated_images_end_no_daemon_and_each_input_that_ends_a_decoder_is_filed(
    fault: Fault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run(10, fault, tmp_path_factory)


@pytest.mark.long
@pytest.mark.fault("mutation fuzzing, ten minutes", matrix=(42,))
def test_ten_minutes_of_mutated_images_end_no_daemon(fault: Fault, tmp_path_factory: pytest.TempPathFactory) -> None:
    run(600, fault, tmp_path_factory)


def test_every_seed_is_a_sound_image() -> None:
    for name, data in seeds().items():
        assert inspect(data, LIMITS).pages, name


def header_says(data: bytes) -> str:
    try:
        header = inspect(data, LIMITS)
    except FrameRejected as error:
        return error.reason
    sound = all(page.refused or 0 < page.width * page.height <= LIMITS.max_pixels for page in header.pages)
    return "judged" if sound else "let through"


def test_no_mutation_leads_our_own_parsers_astray() -> None:
    """The header check rejects or lets through, the structure check grades; neither takes long."""
    end, source = time.monotonic() + 6, inputs(int.from_bytes(os.urandom(4), "big"))
    fd = os.memfd_create("fuzz")
    count, grades = 0, Counter[Grade]()
    while time.monotonic() < end:
        name, data = next(source)
        began = time.process_time()
        assert header_says(data) in REASONS, name
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        grades[check(fd, len(data)).grade] += 1
        assert time.process_time() - began < 2, name
        count += 1
    os.close(fd)
    assert count > 500 and len(grades) >= 3, (count, grades)
