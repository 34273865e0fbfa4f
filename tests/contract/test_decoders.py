"""The decoder processes, real ones: good files, slots, several models, tiles, pages."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from contract.decoder_images import Notes, landing, plan, tiff_pages, wafer, write
from edged.config import Decode, QualityLimits
from edged.errors import ModelMismatch, Unavailable
from edged.nouns import InputPlan, Landing, PagePart
from edged.vision.decoders import Decoders
from edged.vision.outcomes import ChangedUnderway, Rejected
from edged.vision.prepare import prepare


@asynccontextmanager
async def decoders(limits: dict[str, QualityLimits] | None = None, **config: Any) -> AsyncIterator[Decoders]:
    async with Decoders(Decode(**({"processes": 1, "slots": 4} | config)), limits or {}, Notes()) as running:
        yield running


Parts = list[tuple[PagePart, list[np.ndarray]]]


async def parts(running: Decoders, file: Landing, *plans: InputPlan, reference: Path | None = None) -> Parts:
    """Every part with copies of its tensors, its slots released."""
    found = []
    async for part in running.prepare(file, "r", plans or (plan(),), reference):
        found.append((part, [tensor.array.copy() for tensor in part.tensors]))
        for tensor in part.tensors:
            running.release(tensor)
    assert all(free == slots for _, slots, free in running.snapshot().rings)
    return found


async def test_a_jpeg_arrives_as_a_tensor_in_shared_memory_with_its_facts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jpg", wafer(96, 128))
    async with decoders() as running:
        async for part in running.prepare(landing(file), "r", [plan()], None):
            (tensor,) = part.tensors
            page = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            ((expected, geometry),) = prepare(page, plan())
            assert np.array_equal(tensor.array, expected) and tensor.geometry == geometry
            assert not tensor.array.flags.writeable
            (ring,) = running.rings()
            raw = Path(ring.path).read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
            assert raw == expected.tobytes() and ring.slot_nbytes == tensor.nbytes and ring.name == tensor.ring
            assert Path(ring.path).stat().st_mode & 0o777 == 0o660
            image = part.image
            assert (image.sha256, image.bytes) == (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size)
            assert (image.media_type, image.width, image.height) == ("image/jpeg", 128, 96)
            assert (image.bits, image.channels, image.pages) == (8, 1, 1)
            assert part.last and part.quality is not None and part.quality.ok and part.quality.sharpness > 100
            assert {"wait", "read", "decode", "preprocess"} == set(part.timing_ms)
            running.release(tensor)
            with pytest.raises(ValueError, match="released twice"):
                running.release(tensor)
    assert not Path(ring.path).exists()


async def test_every_format_gives_the_pixels_that_were_written(tmp_path: Path) -> None:
    page, deep = wafer(48, 64), wafer(48, 64).astype(np.uint16) * 257
    files = [write(tmp_path / name, page) for name in ("a.png", "a.bmp", "a.tif")]
    deep_files = [write(tmp_path / name, deep) for name in ("d.png", "d.tif")]
    async with decoders() as running:
        for file in files + deep_files:
            ((part, (tensor,)),) = await parts(running, landing(file))
            assert np.array_equal(tensor[0], page), file
            assert part.image.bits == (16 if file in deep_files else 8), file


async def test_one_file_serves_several_models_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", np.dstack([wafer(96, 128, seed) for seed in (1, 2, 3)]))
    plans = (
        plan(),
        plan(32, 32, channels=3, colour="rgb", model="n"),
        plan(16, 16, dtype="FP32", normalise="wire", mean=(100.0,), scale=(0.5,), model="o"),
    )
    async with decoders() as running:
        ((part, tensors),) = await parts(running, landing(file), *plans)
        assert [tensor.model for tensor in part.tensors] == [0, 1, 2]
        for one, made in zip(plans, tensors, strict=True):
            ((expected, _),) = prepare(cv2.imread(str(file)), one)
            assert made.dtype == expected.dtype and np.array_equal(made, expected)
        assert part.preprocess_steps[0] == "m: gray" and len(running.rings()) == 3


async def test_a_page_with_more_tiles_than_slots_comes_in_parts_and_every_tile_once(tmp_path: Path) -> None:
    file = write(tmp_path / "big.png", wafer(250, 330))
    tiled = plan(64, 64, fit="tile", tile_overlap_px=8)
    expected = prepare(cv2.imread(str(file), 0), tiled)
    async with decoders() as running:
        found = await parts(running, landing(file), tiled, plan(model="whole"))
        assert len(found) > 3 and [part.last for part, _ in found] == [False] * (len(found) - 1) + [True]
        assert {tensor.model for tensor in found[0][0].tensors} == {0, 1}
        tiles = {t.geometry.tile: a for part, arrays in found for t, a in zip(part.tensors, arrays, strict=True) if t.model == 0}
        assert sorted(tiles) == list(range(len(expected)))
        assert all(np.array_equal(tiles[i], array) for i, (array, _) in enumerate(expected))
        assert {part.preprocess_hash for part, _ in found} == {found[0][0].preprocess_hash}


async def test_every_page_of_a_tiff_is_a_part_and_a_bad_page_costs_only_itself(tmp_path: Path) -> None:
    pages = [wafer(48, 64, seed) for seed in (1, 2, 3)]
    file = tiff_pages(tmp_path / "pages.tif", pages[0], np.zeros((500, 600), np.uint8), pages[2])
    async with decoders(max_pixels=200_000) as running:
        found = await parts(running, landing(file))
        assert [(part.image.page, part.image.pages, part.last) for part, _ in found] == [(0, 3, True), (1, 3, True), (2, 3, True)]
        assert found[1][0].rejected is not None and found[1][0].rejected[0] == "too-large"
        assert np.array_equal(found[0][1][0][0], pages[0]) and np.array_equal(found[2][1][0][0], pages[2])


async def test_a_golden_reference_fills_the_last_channel_or_is_said_to_be_missing(tmp_path: Path) -> None:
    file, golden = write(tmp_path / "a.png", wafer(48, 64)), write(tmp_path / "a_temp.png", wafer(48, 64, 9))
    other = write(tmp_path / "other.png", wafer(30, 30))
    both = plan(channels=2, reference=True)
    async with decoders() as running:
        for _ in range(2):  # from the file, then from the cache
            ((part, (tensor,)),) = await parts(running, landing(file), both, reference=golden)
            assert np.array_equal(tensor[1], wafer(48, 64, 9)) and "reference-missing" not in part.preprocess_steps
        for missing in (tmp_path / "none.png", other, tmp_path):
            ((part, (tensor,)),) = await parts(running, landing(file), both, reference=missing)
            assert not tensor[1].any() and "reference-missing" in part.preprocess_steps
        ((part, (tensor,)),) = await parts(running, landing(file), both)
        assert not tensor[1].any() and "reference-missing" not in part.preprocess_steps
        write(golden, wafer(48, 64, 10))
        ((_, (tensor,)),) = await parts(running, landing(file), both, reference=golden)
        assert np.array_equal(tensor[1], wafer(48, 64, 10))


async def test_a_missing_flat_field_holds_the_recipe_and_never_rejects_the_image(tmp_path: Path) -> None:
    file, flat = write(tmp_path / "a.png", wafer(48, 64)), tmp_path / "flat.png"
    corrected = plan(flat_field=flat)
    async with decoders() as running:
        with pytest.raises(Unavailable, match="flat field") as held:
            await parts(running, landing(file), corrected)
        assert held.value.what == "recipe:r" and held.value.hint
        shade = np.tile(np.linspace(60, 180, 64), (48, 1)).astype(np.uint8)
        write(flat, shade)
        ((first, (tensor,)),) = await parts(running, landing(file), corrected)
        ((expected, _),) = prepare(wafer(48, 64), corrected, None, shade)
        assert np.array_equal(tensor, expected)
        write(flat, 255 - shade)
        ((second, _),) = await parts(running, landing(file), corrected)
        assert first.preprocess_hash != second.preprocess_hash


async def test_quality_is_judged_by_the_limits_of_the_recipe(tmp_path: Path) -> None:
    file = write(tmp_path / "blurred.png", cv2.GaussianBlur(wafer(300, 400), (0, 0), 6))
    async with decoders({"r": QualityLimits(min_sharpness=50, max_mean=30)}) as running:
        ((part, _),) = await parts(running, landing(file))
        assert part.quality is not None and not part.quality.ok and len(part.quality.problems) == 2


async def test_without_a_free_slot_images_wait_and_the_longest_waiting_goes_first(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.png", wafer(48, 64, i)) for i in range(6)]
    order: list[int] = []
    held: list[Any] = []

    async def one(running: Decoders, i: int) -> None:
        async for part in running.prepare(landing(files[i]), "r", [one_plan], None):
            order.append(i)
            held.extend(part.tensors)

    one_plan = plan()
    async with decoders(slots=2) as running, asyncio.TaskGroup() as group:
        for i in range(6):
            group.create_task(one(running, i))
        while len(held) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert order == [0, 1]
        for n in range(6):
            while len(held) <= n:
                await asyncio.sleep(0.005)
            running.release(held[n])
    assert order == list(range(6))
    assert [tensor.slot for tensor in held] == [0, 1, 0, 1, 0, 1]


async def test_an_asker_who_goes_away_leaves_no_slot_behind(tmp_path: Path) -> None:
    file = write(tmp_path / "big.png", wafer(2000, 2000))
    async with decoders(slots=3) as running:
        await parts(running, landing(file))
        for delay in (0, 0.001, 0.005, 0.02, 0.05):
            tasks = [asyncio.create_task(parts(running, landing(file))) for _ in range(6)]
            await asyncio.sleep(delay)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        while running.snapshot().busy:
            await asyncio.sleep(0.01)
        assert running.snapshot().rings[0][2] == 3 and running.snapshot().waiting == 0


async def test_an_asker_who_leaves_between_two_pages_frees_the_process(tmp_path: Path) -> None:
    file = tiff_pages(tmp_path / "p.tif", wafer(48, 64), wafer(48, 64, 2), wafer(48, 64, 3))
    async with decoders() as running:
        asking = running.prepare(landing(file), "r", [plan()], None)
        part = await anext(asking)
        await asking.aclose()
        running.release(part.tensors[0])
        assert len(await parts(running, landing(file))) == 3


async def test_a_file_that_changed_or_went_after_it_settled_is_not_judged(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", wafer(48, 64))
    there = landing(file)
    async with decoders() as running:
        for other in (replace(there, size=there.size + 1), replace(there, mtime_ns=1), replace(there, inode=there.inode + 1)):
            with pytest.raises(ChangedUnderway):
                await parts(running, other)
        file.unlink()
        with pytest.raises(FileNotFoundError):
            await parts(running, there)
        with pytest.raises(Unavailable) as away:
            await parts(running, replace(there, folder=str(tmp_path / "unmounted")))
        assert away.value.what == "folder:top"
        assert len(await parts(running, landing(write(file, wafer(48, 64))))) == 1


async def test_a_file_that_may_not_be_read_waits(tmp_path: Path) -> None:
    secret = Path("/proc/sys/vm/compact_memory")  # write-only even for root
    if not secret.exists():
        pytest.skip("no write-only file on this kernel")
    async with decoders() as running:
        with pytest.raises(Unavailable, match="Permission denied"):
            await parts(running, landing(secret))


async def test_names_that_are_no_text_and_folders_below_are_read(tmp_path: Path) -> None:
    below = tmp_path / "lot \u00fc" / "w1"
    below.mkdir(parents=True)
    name = b'we"ird\n\xff\xfe.png'
    file = Path(os.fsdecode(os.fsencode(below) + b"/" + name))
    file.write_bytes(write(tmp_path / "x.png", wafer(48, 64)).read_bytes())
    relative = os.fsencode(str(file.relative_to(tmp_path)))
    async with decoders() as running:
        assert len(await parts(running, replace(landing(file), folder=str(tmp_path), path=relative))) == 1
        (tmp_path / "link").symlink_to(below)
        with pytest.raises((ChangedUnderway, FileNotFoundError)):
            await parts(running, replace(landing(file), folder=str(tmp_path), path=b"link/" + name))


async def test_what_intake_gave_up_is_rejected_with_its_hash_and_without_a_codec(tmp_path: Path) -> None:
    file = tmp_path / "half.png"
    file.write_bytes(write(tmp_path / "x.png", wafer(48, 64)).read_bytes()[:500])
    async with decoders() as running:
        with pytest.raises(Rejected) as rejected:
            await parts(running, replace(landing(file), rejected="truncated", rejected_detail="it stopped growing"))
        assert (rejected.value.reason, rejected.value.detail) == ("truncated", "it stopped growing")
        image = rejected.value.image
        assert image is not None and image.media_type == "image/png"
        assert image.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


async def test_a_plan_that_cannot_fill_its_model_holds_the_recipe(tmp_path: Path) -> None:
    file = landing(write(tmp_path / "a.png", wafer(48, 64)))
    unfit: Sequence[InputPlan] = (
        plan(channels=3),
        plan(colour="rgb"),
        replace(plan(), dims=(1, 50, 50)),
        plan(dtype="FP32"),
        plan(dtype="INT8"),
        plan(channels=1, reference=True),
    )
    async with decoders() as running:
        for one in unfit:
            with pytest.raises(ModelMismatch):
                await parts(running, file, one)
