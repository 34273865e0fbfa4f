"""The tool's side: two cameras that drop images the ways camera PCs do, and remember each drop."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edged.simulate.dies import make_die
from edged.simulate.player import Dropped, Style, corrupted, drop, paced, truncated

STYLES = (Style.RENAME, Style.INPLACE, Style.SLOW, Style.PREALLOCATED)


@dataclass(frozen=True, slots=True)
class Expected:
    """A drop that must become exactly one message: a verdict, or ERROR for the `reason`s that fit the damage done."""

    camera: str
    drop: Dropped
    damage: str | None = None


class Tool:
    """`expected` grows with every drop; references are not expected: they are never judged."""

    def __init__(self, dies: Path, maps: Path, images: Path, seed: int = 7) -> None:
        self.expected: list[Expected] = []
        self._dies, self._maps = dies, maps
        self._random = random.Random(seed)
        self._map_files = sorted((images / "wafer_maps" / "images").glob("*.png"))
        self._die_images = _die_images(images / "dies" / "images", np.random.default_rng(seed))
        self._die_names = (f"L{lot}A_{wafer:02d}_{x}_{y}_1" for lot, wafer, y, x in itertools.product(*_DIES))
        self._map_names = (f"LOT{lot}-{wafer:02d}" for lot in itertools.count(4101) for wafer in range(1, 26))

    async def play(self, seconds: float, rate_per_s: float, progress: Callable[[int], None]) -> None:
        """Drops for `seconds`: two maps for each die at `rate_per_s` together, bursts at a fifth, half and four fifths of the time."""
        total = max(6, int(seconds * rate_per_s))
        bursts = {total // 5, total // 2, total * 4 // 5}
        odd = {total // 10: self._truncated, total // 8: self._corrupt, total // 6: self._reuse}
        async with asyncio.TaskGroup() as slow_writers:
            async for number in paced(total, rate_per_s):
                camera_drop = self._drop_die if number % 3 == 0 else self._drop_map
                slow_writers.create_task(camera_drop(STYLES[number % len(STYLES)]), name=f"drop-{number}")
                if number in bursts:
                    for _ in range(20):
                        await self._drop_map(Style.RENAME)
                if number in odd:
                    slow_writers.create_task(odd[number](), name=f"odd-{number}")
                progress(number + 1)

    async def _drop_die(self, style: Style) -> None:
        image, reference, suffix = next(self._die_images)
        stem = next(self._die_names)
        if reference is not None:
            await drop(self._dies / f"{stem}_temp{suffix}", reference, Style.RENAME)
        self._expect("dies", await drop(self._dies / f"{stem}{suffix}", image, style))

    async def _drop_map(self, style: Style) -> None:
        name = next(self._map_names)
        self._expect("maps", await drop(self._maps / f"{name}.png", self._map(), style))

    async def _truncated(self) -> None:
        self._expect("maps", await drop(self._maps / "LOT9001-01.png", truncated(self._map()), Style.INPLACE), "truncated")

    async def _corrupt(self) -> None:
        self._expect("maps", await drop(self._maps / "LOT9001-02.png", corrupted(self._map()), Style.RENAME), "corrupt")

    async def _reuse(self) -> None:
        """The tool uses a name again, with another image, a while after the first was there."""
        first, second = (file.read_bytes() for file in self._map_files[:2])
        for data in (first, second):
            self._expect("maps", await drop(self._maps / "LOT9001-03.png", data, Style.RENAME))
            await asyncio.sleep(5)

    def _map(self) -> bytes:
        return self._random.choice(self._map_files).read_bytes()

    def _expect(self, camera: str, dropped: Dropped, damage: str | None = None) -> None:
        self.expected.append(Expected(camera, dropped, damage))


_DIES = (range(2411, 9999), range(1, 26), range(-3, 4), range(-4, 5))


def _die_images(folder: Path, rng: np.random.Generator) -> Iterator[tuple[bytes, bytes | None, str]]:
    """The shipped die images first, each with its reference where it has one; then generated ones, over and over."""
    for file in sorted(folder.iterdir()):
        if file.suffix in (".jpg", ".png", ".bmp", ".tif") and not file.stem.endswith("_temp"):
            reference = file.with_name(f"{file.stem}_temp{file.suffix}")
            yield file.read_bytes(), reference.read_bytes() if reference.exists() else None, file.suffix
    pool = [make_die(rng) for _ in range(24)]
    jpegs = [(_jpeg(die.image), _jpeg(die.reference), ".jpg") for die in pool]
    yield from itertools.cycle(jpegs)


def _jpeg(image: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])
