"""Images that are fingerprints, and models whose answer tells which image they saw: for faults in which answers could be mixed up.

- `fingerprint(first, second)`: a small PNG; the model of `write_package` answers scores = [first/255, second/255, 1 - first/255]
- `seed_of(home, ...)`: a seed repository with such models beside the shipped wafer_pattern; `recipes_of` the toml that names them
- `Prints`: drops fingerprints into a station and checks that the MES got each image's own scores
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rigs.packages import DIMS, expected_scores, golden_png, write_package
from rigs.station import Station
from rigs.triton import ROOT, TritonServer

SHIPPED = ROOT / "model_repository"


def fingerprint(first: int, second: int, number: int) -> bytes:
    """`number` makes the file another one, and nothing else."""
    content = golden_png(first, second)
    text = b"Comment\0image %d" % number
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return content[:-12] + chunk + content[-12:]


def seed_of(home: Path, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """`models`: name -> keywords of `write_package`."""
    seed = home / "seed"
    shutil.copytree(SHIPPED / "wafer_pattern__1", seed / "wafer_pattern__1")
    for name, keywords in models.items():
        write_package(seed, name, **keywords)
    return seed


def recipes_of(seed: Path, names: Sequence[str]) -> str:
    """More toml: the seed, and a recipe of one model for each name."""
    recipes = "".join(f'[[recipe]]\nname = "{name}"\nmodels = ["{name}"]\n' for name in names)
    return f'{recipes}[models]\nrepository = "{seed}"\nallow_python = true\n'


class Prints:
    """What was dropped with which fingerprint. `first` of 251 to 253 means what `packages.MODEL` says; the others run from 0 to 240."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.dropped: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count(1)

    def drop(self, camera: str, count: int = 1, first: int | None = None) -> list[str]:
        """Their names."""
        names = []
        for _ in range(count):
            number = next(self._numbers)
            print_ = (number * 37 % 241 if first is None else first, number // 241 % 256)
            name = f"p{number:06d}.png"
            self.dropped[name] = print_
            self.station.put(camera, name, fingerprint(*print_, number))
            names.append(name)
        return names

    def results(self) -> dict[str, dict[str, Any]]:
        """`data` of what the MES got, by the image's name."""
        found = {}
        for arrival in self.station.mes.results():
            data = arrival.said["data"]
            found[data["image"]["name"]] = data
        return {name: data for name, data in found.items() if name in self.dropped}

    def mixed_up(self) -> list[str]:
        """Images whose verdict tells of another image."""
        wrong = []
        for name, data in self.results().items():
            if data["verdict"] == "ERROR":
                continue
            want = dict(zip(["high", "second", "none"], expected_scores(*self.dropped[name]), strict=True))
            scores = data["models"][0]["scores"]
            if any(abs(scores[key] - value) > 0.002 for key, value in want.items()):
                wrong.append(f"{name}: {scores}, not {want}")
        return wrong


def requests_at(triton: TritonServer, model: str) -> int:
    """How many inference requests Triton has answered for the model, well or not, since it was loaded."""
    with urllib.request.urlopen(f"http://{triton.http}/v2/models/{model}/stats", timeout=10) as answer:
        stats = json.load(answer)["model_stats"]
    return sum(int(each["inference_stats"][how]["count"]) for each in stats for how in ("success", "fail"))


class Crowd:
    """Other clients of a model, who ask it all the time while the block runs."""

    def __init__(self, triton: TritonServer, model: str, clients: int = 8) -> None:
        self._url = f"http://{triton.http}/v2/models/{model}/infer"
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        shape = [1, *DIMS]
        image = {"name": "image", "datatype": "UINT8", "shape": shape, "data": [0] * (DIMS[1] * DIMS[2])}
        body = json.dumps({"inputs": [image]}).encode()
        while not self._end.is_set():
            try:
                urllib.request.urlopen(urllib.request.Request(self._url, body, method="POST"), timeout=20).close()
            except urllib.error.HTTPError as refusal:
                refusal.close()
                self._end.wait(0.02)
            except OSError:
                self._end.wait(0.1)
