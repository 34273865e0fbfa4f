"""What fails around images: rings are unlinked, descriptors run out, nobody takes a message, a page kills, a store hangs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.decoder_images import Notes, landing, plan, tiff_pages, wafer, write
from edged.config import Decode
from edged.errors import Unavailable
from edged.nouns import HealthStatus, InputPlan, Landing, PagePart
from edged.vision.decoders import Decoders
from edged.vision.members import Member
from edged.vision.outcomes import Rejected
from edged.vision.process import DecoderProcess
from edged.vision.ring import SHM, Ring

SETTINGS = Decode().model_dump(exclude={"processes", "slots"})


@asynccontextmanager
async def decoders(board: Notes | None = None, **config: Any) -> AsyncIterator[Decoders]:
    async with Decoders(Decode(**({"processes": 1, "slots": 4} | config)), {}, board or Notes()) as running:
        yield running


async def parts(running: Decoders, file: Landing, one: InputPlan | None = None, reference: Sequence[Path] = ()) -> list[PagePart]:
    found = []
    async for part in running.prepare(file, "r", [one or plan()], reference):
        found.append(part)
        for tensor in part.tensors:
            running.release(tensor)
    return found


def all_free(running: Decoders) -> bool:
    return all(free == slots for _, slots, free in running.snapshot().rings)


def open_files() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found[path.name] = str(path.readlink())
    return found


@contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def next_descriptor() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


async def test_rings_that_somebody_unlinks_cost_no_image(tmp_path: Path) -> None:
    file = landing(write(tmp_path / "a.png", wafer(48, 64)))
    async with decoders() as running:
        assert len(await parts(running, file)) == 1
        for ring in running.rings():
            Path(ring.path).unlink()
        (pid,) = running.pids
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            async for part in running.prepare(file, "r", [plan()], None):
                assert running.pids != (pid,)
                assert np.array_equal(part.tensors[0].array[0], wafer(48, 64))  # what a new process wrote, seen here
                running.release(part.tensors[0])
        assert running.snapshot().deaths == 0 and all_free(running)


async def test_a_daemon_out_of_descriptors_goes_on_once_it_has_some(tmp_path: Path) -> None:
    file, board = landing(write(tmp_path / "a.png", wafer(48, 64))), Notes()
    async with decoders(board) as running:
        assert len(await parts(running, file)) == 1
        with limited(resource.RLIMIT_NOFILE, next_descriptor()):
            assert len(await parts(running, file)) == 1
            os.kill(running.pids[0], signal.SIGKILL)
            asking = asyncio.create_task(parts(running, file))
            async with asyncio.timeout(10):
                while not any(status is HealthStatus.DOWN and "does not start" in cause for _, status, cause in board.said):
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            assert len(await asking) == 1
        assert running.snapshot().deaths == 0 and all_free(running)


def leaves_nothing(make: Callable[[], object], error: type[Exception]) -> tuple[int, object]:
    """How often `make` failed for want of a descriptor, each time a later one, until it succeeded."""
    before, first = open_files(), next_descriptor()
    for failures in range(60):
        with limited(resource.RLIMIT_NOFILE, first + failures):
            try:
                return failures, make()
            except error:
                pass
        assert open_files() == before
    raise AssertionError("it never succeeded")


def test_a_process_that_could_not_be_started_leaves_no_descriptor() -> None:
    failures, process = leaves_nothing(lambda: DecoderProcess(SETTINGS), OSError)
    assert failures >= 5 and isinstance(process, DecoderProcess)
    process.kill()
    process.close()


def test_a_ring_that_could_not_be_made_leaves_no_descriptor_and_no_file() -> None:
    there = {path.name for path in SHM.glob(f"edged-{os.getpid()}-*")}
    failures, ring = leaves_nothing(lambda: Ring(plan(), 4, 700), Unavailable)
    assert failures >= 3 and isinstance(ring, Ring)  # the file, the one for the processes, the mapping; holes in the table add to it
    ring.remove()
    assert {path.name for path in SHM.glob(f"edged-{os.getpid()}-*")} == there


async def test_a_ring_for_which_there_is_no_address_space_is_told_and_made_later(tmp_path: Path) -> None:
    file, big = landing(write(tmp_path / "a.png", wafer(48, 64))), plan(2048, 2048)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    async with decoders() as running:
        before, there = open_files(), set(SHM.iterdir())
        with limited(resource.RLIMIT_AS, used + (4 << 20)), pytest.raises(Unavailable, match="16777216 bytes for a ring") as told:
            running.reserve([big])
        assert (told.value.what, bool(told.value.hint)) == ("/dev/shm", True)
        assert open_files() == before and {path for path in SHM.iterdir() if f"-{os.getpid()}-" in path.name} <= there
        running.reserve([big])
        assert len(await parts(running, file, big)) == 1


async def test_a_request_that_no_socket_takes_is_answered_and_its_companions_are_judged(tmp_path: Path) -> None:
    files = [landing(write(tmp_path / f"{i}.png", wafer(48, 64, i))) for i in range(6)]
    endless = [Path("/" + "x" * 4000)] * 100
    async with decoders(slots=16) as running:
        assert len(await parts(running, files[0])) == 1
        asking = [asyncio.create_task(parts(running, file, None, endless if i == 3 else ())) for i, file in enumerate(files)]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*asking, return_exceptions=True)
        refused = answers.pop(3)
        assert isinstance(refused, Unavailable) and refused.what == "decoders" and refused.hint
        assert all(isinstance(answer, list) and len(answer) == 1 for answer in answers)
        assert running.snapshot().deaths == 0 and all_free(running)


@pytest.fixture(scope="module")
def slow_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pages 0 and 1 take a codec a moment."""
    slow = np.zeros((9000, 9000), np.uint8)
    return tiff_pages(tmp_path_factory.mktemp("slow") / "slow.tif", slow, slow, wafer(48, 64))


async def busy(running: Decoders, phases: bytes, page: int = 0, *, facts: bool = False) -> Member:
    """Waits until the only process is in one of `phases` with this page, or with the file's facts alone."""
    async with asyncio.timeout(30):
        while True:
            for member in running._pool._members:
                request = member.current
                if request is None or member.process.phase not in phases or member.killed is not None:
                    continue
                if (request.job.plans is None) == facts and request.job.page == page:
                    return member
            await asyncio.sleep(0)


async def kill_at(running: Decoders, page: int) -> None:
    pid = (await busy(running, b"D", page)).process.pid
    os.kill(pid, signal.SIGSEGV)
    while pid in running.pids:
        await asyncio.sleep(0.005)


async def test_a_page_that_ends_two_processes_costs_itself_only(slow_pages: Path) -> None:
    async with decoders() as running:
        asking = asyncio.create_task(parts(running, landing(slow_pages)))
        for _ in range(2):
            await kill_at(running, 1)
        first, second, third = await asking
        assert first.rejected is None and third.rejected is None
        assert second.rejected is not None and second.rejected[0] == "decoder-died" and "SIGSEGV" in second.rejected[1]
        assert (second.last, second.tensors, second.quality) == (True, (), None)
        sha256 = hashlib.sha256(slow_pages.read_bytes()).hexdigest()
        assert [(p.image.sha256, p.image.page, p.image.pages) for p in (first, second, third)] == [(sha256, page, 3) for page in range(3)]
        assert (second.image.width, third.image.width) == (None, 64)
        assert running.snapshot().deaths == 2 and running._deaths == {} and all_free(running)


async def test_deaths_are_counted_page_by_page(slow_pages: Path) -> None:
    async with decoders() as running:
        asking = asyncio.create_task(parts(running, landing(slow_pages)))
        await kill_at(running, 0)
        await kill_at(running, 1)
        assert [part.rejected for part in await asking] == [None] * 3
        assert running.snapshot().deaths == 2 and running._deaths == {}


async def test_a_first_page_that_ends_two_processes_rejects_the_file_with_its_hash(slow_pages: Path) -> None:
    async with decoders() as running:
        asking = asyncio.create_task(parts(running, landing(slow_pages)))
        for _ in range(2):
            await kill_at(running, 0)
        with pytest.raises(Rejected, match="ended two decoder processes") as rejected:
            await asking
        assert rejected.value.reason == "decoder-died" and rejected.value.image is not None
        assert rejected.value.image.sha256 == hashlib.sha256(slow_pages.read_bytes()).hexdigest()
        assert running._deaths == {} and all_free(running)


async def test_a_file_that_even_ends_the_process_that_hashes_it_is_rejected_without_its_hash(slow_pages: Path) -> None:
    assert slow_pages.stat().st_size > 100e6  # hashing it takes a moment
    async with decoders() as running:
        asking = asyncio.create_task(parts(running, landing(slow_pages)))
        for _ in range(2):
            await kill_at(running, 0)
        os.kill((await busy(running, b"OR", facts=True)).process.pid, signal.SIGKILL)
        with pytest.raises(Rejected, match="ended two decoder processes") as rejected:
            await asking
        assert rejected.value.image is None and running._deaths == {}


async def test_of_several_places_for_a_golden_reference_the_first_that_is_a_file_counts(tmp_path: Path) -> None:
    file, both = landing(write(tmp_path / "a.png", wafer(48, 64))), plan(channels=2, reference=True)
    golden, later = write(tmp_path / "g.png", wafer(48, 64, 9)), write(tmp_path / "h.png", wafer(48, 64, 8))
    async with decoders() as running:
        async for part in running.prepare(file, "r", [both], [tmp_path / "none.png", tmp_path, tmp_path / "n\0.png", golden, later]):
            assert np.array_equal(part.tensors[0].array[1], wafer(48, 64, 9)) and "reference-missing" not in part.preprocess_steps
            running.release(part.tensors[0])
        (part,) = await parts(running, file, both, [tmp_path / "none.png", tmp_path])
        assert "reference-missing" in part.preprocess_steps


async def test_a_golden_store_that_hangs_holds_its_recipe_and_counts_against_no_image(tmp_path: Path) -> None:
    page = np.zeros((6000, 6000), np.uint8)
    file, golden = landing(write(tmp_path / "a.png", page), "far"), write(tmp_path / "g.png", page)
    good = landing(write(tmp_path / "good.png", wafer(48, 64)))
    async with decoders(timeout_s=3) as running:
        asking = asyncio.create_task(parts(running, file, plan(channels=2, reference=True), [golden]))
        member = await busy(running, b"G")
        os.kill(member.process.pid, signal.SIGSTOP)  # as if its read never came back
        assert member.process.phase == b"G"
        async with asyncio.timeout(2.9):
            assert len(await parts(running, good)) == 1
        with pytest.raises(Unavailable, match="golden reference") as held:
            await asking
        assert held.value.what == "recipe:r" and "golden" in held.value.hint
        assert running._deaths == {} and all_free(running)
