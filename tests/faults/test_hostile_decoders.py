"""An image that ends, hangs or exhausts its decoder process costs that process, and after the second one its own verdict: nothing else.

Real signals and a real limit of memory, on the decoder processes of a whole station while good images pass.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.decoder_images import png
from rigs.faults import Fault
from rigs.neighbour import Neighbour
from rigs.processes import wait_until
from rigs.station import Station

LATE_S = 12.0
"""Generous: this is measured on two cores that other tests share; the row tells what it was."""
CGROUP = Path("/sys/fs/cgroup/memory")
LIMIT = 800 << 20


def slow_image(side: int = 13_900) -> bytes:
    """Sound, and its decoder is at it for half a second or more."""
    return png(side, side, rows=(bytes(side + 1) for _ in range(side)), level=1)


def decoder_pids(station: Station) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == station.daemon.pid and b"edged.vision.child" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def phase(pid: int) -> tuple[bytes, bytes]:
    """(what it is doing, for which job), as its parent reads it."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if "edged-phase" in str(fd.readlink()):
            with fd.open("rb") as memory:
                content = memory.read(16)
            return content[:1], content[8:16]
    return b"", b""


def stuck_decoder(station: Station, timeout_s: float = 30) -> int:
    """The one that is inside a codec for longer than any good image takes."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        pids = decoder_pids(station)
        for _ in range(10):
            with contextlib.suppress(OSError):
                before = {pid: phase(pid) for pid in pids}
                time.sleep(0.06)
                for pid, (doing, job) in before.items():
                    if doing == b"D" and phase(pid) == (doing, job):
                        return pid
    raise AssertionError(f"no decoder is at the slow image; {station.daemon.said()[-1000:]}")


def replaced_s(station: Station, old: list[int]) -> float:
    """How long until as many processes as before take work: confined is the last thing each becomes."""
    began = time.monotonic()

    def ready() -> bool:
        there = 0
        for pid in decoder_pids(station):
            with contextlib.suppress(OSError):
                there += "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
        return there >= len(old)

    wait_until(ready, 20, "the decoder process is replaced")
    return time.monotonic() - began


def verdict(station: Station, name: bytes) -> tuple[str, str]:
    rows = [row for row in station.rows() if row.image[1] == name]
    return (rows[-1].verdict, rows[-1].reason) if rows else ("", "")


def told(station: Station, name: str) -> str:
    """The words with which the MES hears of it."""
    return next(str(each.said["data"]["detail"]) for each in station.mes.results() if each.said["data"]["image"]["name"] == name)


def loses_two(station: Station, number: signal.Signals) -> tuple[list[float], list[float]]:
    """(how long each replacement took, how late the neighbour's images were)."""
    replaced = []
    with Neighbour(station, "good") as neighbour:
        station.put("odd", "deadly.png", slow_image())
        for _ in range(2):
            pid = stuck_decoder(station)
            before = decoder_pids(station)
            os.kill(pid, number)
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20, "the process is gone")  # type: ignore[misc]
            replaced.append(replaced_s(station, before))
        station.over()
        wait_until(lambda: verdict(station, b"deadly.png")[0] != "", 30, "the image has its verdict")
    return replaced, neighbour.delays_s()


@pytest.mark.parametrize(
    ("number", "keys", "cause"),
    [(signal.SIGSEGV, "", "ended by SIGSEGV"), (signal.SIGSTOP, "timeout_s = 3", "took longer than decode.timeout_s = 3 s")],
    ids=["crashes", "hangs"],
)
@pytest.mark.fault("an image that crashes or hangs its decoder", matrix=(41,))
def test_an_image_that_ends_two_decoders_is_an_error_and_its_neighbours_are_judged(
    start_station: Callable[..., Station], fault: Fault, number: signal.Signals, keys: str, cause: str
) -> None:
    station = start_station(cameras=("good", "odd"), toml=f"[decode]\n{keys}\n")
    pid = station.daemon.pid
    replaced, delays = loses_two(station, number)
    recovered_s = station.settle(60)
    assert verdict(station, b"deadly.png") == ("ERROR", "decoder-died")
    assert "ended two decoder processes" in told(station, "deadly.png") and cause in told(station, "deadly.png")
    assert [path for path in (station.daemon.state / "quarantine").iterdir() if path.stat().st_size > 100_000]
    assert station.daemon.running and station.daemon.pid == pid
    assert max(replaced) < LATE_S and max(delays) < LATE_S + (6 if number is signal.SIGSTOP else 0)
    note = f"replaced after {', '.join(f'{each:.2f}' for each in replaced)} s; good images at most {max(delays):.2f} s"
    fault.row(how=number.name, tally=station.tally(), recovered_s=recovered_s, note=note, fault=f"{fault.name}: {number.name}")


@contextlib.contextmanager
def limited_memory() -> Iterator[list[str]]:
    """What to put before a command so that it and its children have LIMIT bytes in all."""
    if not (CGROUP / "memory.limit_in_bytes").exists() or not os.access(CGROUP, os.W_OK):
        pytest.skip("no memory cgroup (v1) that this user may make")
    group = CGROUP / f"edged-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.2)


@pytest.mark.long
@pytest.mark.fault("an image that exhausts the service's memory", matrix=(41,))
def test_when_memory_is_short_the_kernel_ends_decoders_and_never_the_daemon(start_station: Callable[..., Station], fault: Fault) -> None:
    toml = "[decode]\nmax_pixels = 2_000_000_000\nmemory_bytes = 8_000_000_000\n"  # so that nothing but the kernel refuses it
    with limited_memory() as prefix:
        station = start_station(cameras=("good", "odd"), toml=toml, daemon=False)
        station.daemon.start(prefix=prefix)
        pid = station.daemon.pid
        with Neighbour(station, "good") as neighbour:
            station.put("odd", "bomb.png", slow_image(32_000))
            wait_until(lambda: verdict(station, b"bomb.png")[0] != "", 90, f"the bomb has its verdict\n{station.daemon.said()[-1500:]}")
            station.over()
        recovered_s = station.settle(60)
        assert verdict(station, b"bomb.png") == ("ERROR", "decoder-died")
        assert "ended by SIGKILL" in told(station, "bomb.png")
        assert station.daemon.running and station.daemon.pid == pid
        delays = neighbour.delays_s()
        assert len(delays) == len(neighbour.at)
        note = f"good images at most {max(delays):.2f} s"
        fault.row(how=f"1 GB of pixels under a limit of {LIMIT >> 20} MB", tally=station.tally(), recovered_s=recovered_s, note=note)
        station.daemon.stop()
