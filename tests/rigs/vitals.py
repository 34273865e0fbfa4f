"""What a running daemon costs, sampled from outside, and whether it stays flat."""

from __future__ import annotations

import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rigs.daemon import Daemon


@dataclass(frozen=True, slots=True)
class Sample:
    """`at_s`: since the run began. Memory of the daemon alone, and together with its decoders; kB and bytes as the kernel gives them."""

    at_s: float
    pid: int
    rss_kb: int
    family_rss_kb: int
    fds: int
    threads: int
    tasks: int
    db_bytes: int
    wal_bytes: int


def sample(daemon: Daemon, at_s: float) -> Sample | None:
    """None while the daemon is not there to be looked at."""
    pid = daemon.pid
    try:
        rss, threads = _status(pid)
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        family = rss + sum(_status(child)[0] for child in children)
        fds = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        with urllib.request.urlopen(daemon.url + "/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        tasks = next(int(float(line.split()[1])) for line in lines if line.startswith("edged_tasks "))
    except (OSError, StopIteration):
        return None
    return Sample(at_s, pid, rss, family, fds, threads, tasks, _size(daemon.state / "ledger.db"), _size(daemon.state / "ledger.db-wal"))


def _status(pid: int) -> tuple[int, int]:
    said = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(said.get("VmRSS", "0 kB").split()[0]), int(said["Threads"])


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@dataclass(frozen=True, slots=True)
class Trend:
    """`early` and `late`: medians of the second and of the last quarter of the longest life of the daemon."""

    name: str
    early: float
    late: float
    highest: float

    @property
    def growth(self) -> float:
        return self.late / self.early if self.early else 1.0


def trends(samples: Sequence[Sample]) -> tuple[list[Trend], float]:
    """Of the longest life, and its length in s: the first quarter of it warms up and does not count."""
    lives: dict[int, list[Sample]] = {}
    for each in samples:
        lives.setdefault(each.pid, []).append(each)
    life = max(lives.values(), key=len)
    quarter = max(1, len(life) // 4)
    found = []
    for name in [field.name for field in fields(Sample) if field.name not in ("at_s", "pid")]:
        values = [float(getattr(each, name)) for each in life]
        found.append(Trend(name, statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:]), max(values)))
    return found, life[-1].at_s - life[0].at_s
