"""simulate: an inspection tool at the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edged.config import Camera
from edged.errors import Unavailable
from edged.simulate.dies import make_die
from edged.simulate.player import Dropped, Style, corrupted, drop, paced, truncated

Frame = tuple[str, bytes, bytes | None]
"""File name, image, and its golden reference where there is one."""


def simulate(args: argparse.Namespace) -> int:
    if not args.folder.is_dir():
        raise Unavailable(f"the folder {args.folder}", "it does not exist", "Create it, or name the folder of a camera.")
    if not 0 <= args.faults <= 1:
        raise Unavailable("--faults", f"{args.faults:g} is no share", "Give a number from 0 to 1.")
    frames = _from_directory(args.source) if args.source else _generated(args.seed)
    return asyncio.run(_play(args, frames))


async def _play(args: argparse.Namespace, frames: Callable[[int], Frame]) -> int:
    rng = np.random.default_rng(args.seed)
    styles = [Style(style) for style in args.style or ["rename"]]
    columns = (TextColumn("dropped"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=args.json) as progress:
        task = progress.add_task("drop", total=args.count or None)
        async for number in paced(args.count, args.rate):
            name, image, reference = frames(number)
            if rng.random() < args.faults:
                image = truncated(image) if rng.random() < 0.5 else corrupted(image)
            if reference is not None:
                stem, ext = name.rsplit(".", 1)
                await drop(args.folder / f"{stem}_temp.{ext}", reference, Style.RENAME)
            dropped = await drop(args.folder / name, image, styles[number % len(styles)])
            progress.advance(task)
            if args.json:
                _print(dropped)
    return 0


def _print(dropped: Dropped) -> None:
    print(json.dumps({"file": str(dropped.path), "sha256": dropped.sha256, "style": dropped.style, "at": dropped.at}), flush=True)


def _from_directory(source: Path) -> Callable[[int], Frame]:
    """Cycles through the images of a folder; from the second round on, names are numbered so that each drop is a new file."""
    if not source.is_dir():
        raise Unavailable(f"the folder {source}", "there is no such folder", "Give a folder with images.")
    suffixes = {glob.lstrip("*") for glob in Camera.model_fields["include"].default}
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in suffixes and not file.stem.endswith("_temp"))
    if not files:
        raise Unavailable(f"the folder {source}", "it holds no images", "Give a folder with jpg, png, bmp or tiff files.")

    def frame(number: int) -> Frame:
        file, turn = files[number % len(files)], number // len(files)
        reference = file.with_name(f"{file.stem}_temp{file.suffix}")
        name = file.name if turn == 0 else f"{file.stem}_{turn}{file.suffix}"
        return name, file.read_bytes(), reference.read_bytes() if reference.exists() else None

    return frame


def _generated(seed: int) -> Callable[[int], Frame]:
    rng = np.random.default_rng(seed)

    def frame(number: int) -> Frame:
        die = make_die(rng)
        wafer, index = divmod(number, 60)
        name = f"L{seed:04d}A_{wafer + 1:02d}_{index % 10 - 5}_{index // 10 - 3}_1.jpg"
        return name, _jpeg(die.image), _jpeg(die.reference)

    return frame


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return bytes(data)
