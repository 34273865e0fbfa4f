"""The local Triton goes, the plant's answers: said in every result, without shared memory, and only for as long as it must."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rigs.faults import Fault
from rigs.prints import Prints, recipes_of, seed_of
from rigs.processes import wait_until
from rigs.station import Station
from rigs.triton import TritonServer

Start = Callable[..., Station]
PLANT = "10.231.7.1"


@contextmanager
def an_address(address: str = PLANT) -> Iterator[str]:
    """An address of this machine that is not on its loopback, so that edged takes what answers there for a Triton further away."""
    if os.geteuid() != 0:
        pytest.skip("only root can add an address to an interface")
    name = f"edged{os.getpid() % 100000}"
    made = subprocess.run(
        ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no veth interface can be made here: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield address
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False)


@contextmanager
def forwarded(address: str, target: str) -> Iterator[str]:
    """`address:port` whose connections go to `target`: the rig's Triton itself binds to loopback only."""
    host, _, port = target.rpartition(":")
    door = socket.create_server((address, 0))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            try:
                while chunk := source.recv(65536):
                    sink.sendall(chunk)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                outer, _ = door.accept()
            except OSError:
                return
            try:
                inner = socket.create_connection((host, int(port)), 5)
            except OSError:
                outer.close()
                continue
            for pair in ((outer, inner), (inner.dup(), outer.dup())):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{address}:{door.getsockname()[1]}"
    finally:
        door.close()


@pytest.mark.fault("fallback to the plant's Triton", matrix=(28,))
def test_while_the_local_triton_is_away_the_plants_answers_and_every_result_says_so(
    start_station: Start, own_triton: Callable[..., TritonServer], fault: Fault, tmp_path: Path
) -> None:
    seed = seed_of(tmp_path, {"prints": {}})
    with an_address() as address:
        station = start_station(
            cameras={"cam": 'recipe = "prints"'}, camera='after = "move"', toml=recipes_of(seed, ["prints"]), daemon=False
        )
        plant = own_triton(repository=station.triton.repository)  # the plant deploys the same packages
        with forwarded(address, plant.grpc) as further:
            config = station.daemon.config
            config.write_text(config.read_text().replace(f'["{station.triton.grpc}"]', f'["{station.triton.grpc}", "{further}"]'))
            station.daemon.start()
            prints = Prints(station)
            feed(prints, 2)
            station.triton.kill()
            station.over()
            feed(prints, 6)
            told = station.wait_health("recipe:prints", "degraded", 10)
            assert told["cause"] == f"judged by {further}, not by the local Triton"
            triton = station.health()["triton"]
            assert triton["status"] == "degraded"
            assert triton["facts"]["shared_memory"][further] == "off"
            assert station.daemon.get("/readyz"), "a station that judges is ready"
            on_fallback_s = station.settle(30)
            station.triton.start()
            station.wait_health("recipe:prints", "ok", 15)
            time.sleep(0.5)
            last = prints.drop("cam", 5)
            station.settle(30)
    assert prints.mixed_up() == []
    found = prints.results()
    endpoints = {name: data["models"][0]["endpoint"] for name, data in found.items()}
    assert set(endpoints.values()) == {"local", further}
    assert {endpoints[name] for name in last} == {"local"}, "back at the local one"
    assert all(data["flags"]["degraded"] is (endpoints[name] == further) for name, data in found.items())
    assert {data["verdict"] for data in found.values()} <= {"PASS", "FAIL", "REVIEW"}
    fault.row(how="local killed, a second one further away", tally=station.tally(), recovered_s=on_fallback_s)


def a_station(start_station: Start, seed: Path) -> Station:
    """Not started: it is told of a second Triton first."""
    cameras = {"cam": 'recipe = "prints"'}
    return start_station(cameras=cameras, camera='after = "move"', toml=recipes_of(seed, ["prints"]), daemon=False)


def feed(prints: Prints, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        prints.drop("cam", 2)
        time.sleep(0.25)


@pytest.mark.long
@pytest.mark.fault("the plant's Triton away too", matrix=(28,))
def test_with_both_away_images_wait_and_the_first_that_is_back_is_used(
    start_station: Start, own_triton: Callable[..., TritonServer], fault: Fault, tmp_path: Path
) -> None:
    seed = seed_of(tmp_path, {"prints": {}})
    station = a_station(start_station, seed)
    plant = own_triton(repository=station.triton.repository)
    config = station.daemon.config
    config.write_text(config.read_text().replace(f'["{station.triton.grpc}"]', f'["{station.triton.grpc}", "{plant.grpc}"]'))
    station.daemon.start()
    prints = Prints(station)
    feed(prints, 1)
    station.triton.kill()
    plant.kill()
    feed(prints, 2)
    told = station.wait_health("triton", "down", 15)
    assert station.triton.grpc in told["cause"] and plant.grpc in told["cause"]
    plant.start()
    station.over()
    recovered_s = station.settle(30)
    wait_until(lambda: station.health()["triton"]["status"] == "degraded", 10, "one of two is still away")
    assert {data["models"][0]["endpoint"] for data in prints.results().values()} <= {"local", plant.grpc}
    assert prints.mixed_up() == []
    fault.row(how="both killed, the further one started", tally=station.tally(), recovered_s=recovered_s)
