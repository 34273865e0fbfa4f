"""Whom the daemon's death concerns: one memory, several runs over it."""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path

import pytest

from edged.errors import EdgedError, Unavailable
from edged.flights import Flight, Flights, opened
from edged.flights.evidence import Evidence
from edged.flights.slots import BYTES, HEAD, Slots
from unit.test_pipeline import landing

CRASH = Evidence("Fatal Python error: Segmentation fault\n\nCurrent thread ...")
GOOD, BAD = landing("good.png"), landing("bad.png")


class Runs:
    """Runs of a daemon over the same memory; each begins when the one before has died, or ended."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, BYTES)
        self.now = 0.0

    def start(self, evidence: Evidence | None = None) -> Flights:
        self.now += 1000.0
        return Flights(Slots(self.memory), evidence, monotonic=lambda: self.now)


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def flies(flights: Flights, image: object = BAD, *, recording: bool = False) -> Flight:
    """It has taken off; whoever dies now leaves it under way."""
    flight = await flights.flight(image).__aenter__()  # type: ignore[arg-type]
    if recording:
        flight.recording()
    return flight


async def test_a_hundred_kills_condemn_no_image_though_it_was_alone_each_time(runs: Runs) -> None:
    flights = runs.start()
    await flies(flights)
    for _ in range(100):
        flights = runs.start()
        runs.now += 1000
        assert flights.due(BAD)
        assert (await flies(flights)).landing.rejected is None
    flights = runs.start()
    runs.now += 1000
    async with flights.flight(BAD) as flight:
        assert flight.landing is BAD
    with flights:
        pass
    assert runs.start().suspects == 0


async def test_an_image_whose_lonely_death_nobody_explains_waits_longer_each_time_and_the_others_do_not(runs: Runs) -> None:
    await flies(runs.start())
    waits = []
    for _ in range(3):
        flights = runs.start()
        waited = 0
        while not flights.due(BAD):
            assert flights.due(GOOD)
            waited, runs.now = waited + 1, runs.now + 1
        waits.append(waited)
        await flies(flights)
    assert waits == [0, 2, 4]


@pytest.mark.parametrize("evidence", [CRASH, Evidence(oom_kills=7)])
async def test_an_image_that_crashes_the_daemon_twice_while_it_is_alone_is_condemned(runs: Runs, evidence: Evidence) -> None:
    await flies(runs.start())
    await flies(runs.start(evidence))  # with the others that time: it proves nothing, but it is alone now
    flights = runs.start(Evidence(evidence.stack, evidence.oom_kills * 2))
    runs.now += 10
    assert (await flies(flights)).landing.rejected is None
    flights = runs.start(Evidence(evidence.stack, evidence.oom_kills * 3))
    assert flights.due(BAD)
    async with flights.flight(BAD) as flight:
        assert flight.landing.rejected == "daemon-died"
        assert "2 times" in flight.landing.rejected_detail


async def test_what_crashes_while_the_record_is_written_is_not_the_image(runs: Runs) -> None:
    await flies(runs.start())
    for _ in range(5):
        flights = runs.start(CRASH)
        runs.now += 1000
        assert (await flies(flights, recording=True)).landing.rejected is None


async def dies_under_way(flights: Flights, flight: Flight, error: Exception) -> None:
    await flight.__aexit__(type(error), error, None)
    with pytest.raises(type(error)), flights:
        raise error


async def dies_of(flights: Flights, image: object, error: Exception) -> None:
    with pytest.raises(type(error)), flights:
        async with flights.flight(image):  # type: ignore[arg-type]
            raise error


async def test_an_exception_of_its_own_journey_counts_at_once_and_the_second_condemns(runs: Runs) -> None:
    for turn in range(2):
        flights = runs.start()
        runs.now += 10
        if turn == 0:
            await flies(flights, GOOD)
        await dies_of(flights, BAD, IndexError("list index out of range"))
    flights = runs.start()
    assert flights.suspects == 1  # the bystander is none
    async with flights.flight(BAD) as flight:
        assert flight.landing.rejected == "daemon-died"
        assert flight.landing.rejected_detail == "judging it has ended edged 2 times: IndexError: list index out of range"


async def test_a_daemon_that_fails_with_every_image_condemns_one_and_no_folder(runs: Runs) -> None:
    images = [landing(f"{number}.png") for number in range(5)]
    condemned = set()
    for _ in range(20):
        flights = runs.start()
        runs.now += 1000
        image = next((image for image in images if flights.due(image) and image.name not in condemned), None)
        if image is None:
            continue
        flight = await flies(flights, image)
        if flight.landing.rejected:
            condemned.add(image.name)
            await flight.__aexit__(None, None, None)
            continue
        await dies_under_way(flights, flight, ZeroDivisionError())
    assert len(condemned) == 1
    flights = runs.start()
    async with flights.flight(GOOD):
        pass  # the daemon is well again
    runs.now += 1000
    guilty = [image for image in images if image.name not in condemned and flights.due(image)]
    async with flights.flight(guilty[0]) as flight:
        assert flight.landing.rejected == "daemon-died"


async def test_an_exception_from_nowhere_makes_suspects_and_a_second_one_condemns_who_was_alone(runs: Runs) -> None:
    for _ in range(3):
        flights = runs.start()
        runs.now += 1000
        assert (await flies(flights)).landing.rejected is None
        with pytest.raises(ExceptionGroup), flights:
            raise ExceptionGroup("tasks", [KeyError("a callback")])
    flights = runs.start()
    assert (await flies(flights)).landing.rejected == "daemon-died"


async def test_what_ends_by_an_error_of_the_taxonomy_or_as_asked_leaves_no_suspect(runs: Runs) -> None:
    for error in (ExceptionGroup("tasks", [EdgedError("the ledger is corrupt")]), asyncio.CancelledError(), None):
        flights = runs.start()
        try:
            with flights:
                await flies(flights)
                if error is not None:
                    raise error
        except (ExceptionGroup, asyncio.CancelledError):
            pass
        assert runs.start().suspects == 0


async def test_a_suspect_goes_alone_and_the_others_wait_for_it_only(runs: Runs) -> None:
    await flies(runs.start())
    flights = runs.start()
    other = await flies(flights, GOOD)
    suspect = asyncio.create_task(flies(flights))
    await asyncio.sleep(0.01)
    assert not suspect.done()  # one is still under way
    third = asyncio.create_task(flies(flights, landing("third.png")))
    await other.__aexit__(None, None, None)
    flight = await asyncio.wait_for(suspect, 1)
    assert flight.alone
    await asyncio.sleep(0.01)
    assert not third.done()
    await flight.__aexit__(None, None, None)
    await asyncio.wait_for(third, 1)


async def test_a_suspect_that_waits_for_a_peer_stays_one(runs: Runs) -> None:
    await flies(runs.start())
    flights = runs.start()
    with pytest.raises(Unavailable):
        async with flights.flight(BAD):
            raise Unavailable("triton", "it is away")
    assert flights.suspects == 1
    async with flights.flight(BAD):
        pass
    assert flights.suspects == 0


async def test_kills_in_a_row_do_not_pile_up_suspects(runs: Runs) -> None:
    for turn in range(5):
        flights = runs.start()
        assert flights.suspects == min(turn, 1) * 3
        for number in range(3):
            await flies(flights, landing(f"{turn}-{number}.png"))


async def test_a_name_too_long_for_its_slot_still_tells_two_images_apart(runs: Runs) -> None:
    long = [landing("d/" * 300 + f"{number}.png") for number in range(2)]
    await flies(runs.start(), long[0])
    flights = runs.start()
    assert (await flies(flights, long[1])).left is None
    assert flights.suspects == 1


async def test_torn_memory_makes_no_suspect(runs: Runs) -> None:
    await flies(runs.start())
    runs.memory[HEAD + 30] ^= 0xFF  # in the first slot's name
    assert runs.start().suspects == 0
    runs.memory[:8] = b"whatever"
    assert runs.start().suspects == 0


async def test_without_shared_memory_the_daemon_runs_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path, tmp_path / "absent") as flights:
        async with flights.flight(GOOD):
            pass


async def test_a_clean_end_leaves_nothing_in_shared_memory(tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    shm.mkdir()
    with opened(tmp_path, shm) as flights:
        async with flights.flight(GOOD):
            assert len(list(shm.iterdir())) == 2
    assert not list(shm.iterdir())


async def test_what_a_state_directory_that_is_no_more_has_left_is_swept(tmp_path: Path) -> None:
    shm, gone = tmp_path / "shm", tmp_path / "gone"
    for folder in (shm, gone):
        folder.mkdir()
    with pytest.raises(IndexError), opened(gone, shm):
        raise IndexError
    assert len(list(shm.iterdir())) == 2
    gone.rmdir()
    with opened(tmp_path, shm):
        assert len(list(shm.iterdir())) == 2  # this run's own
