"""A plant behind a wire of its own: a network namespace with a veth pair, whose wire can be cut, lossy or slow. Needs root.

with plant_network() as plant:
    broker = start_broker(host=plant.there, inside=plant.inside)
    plant.drop(broker.port)           # half-open: nothing passes, nobody is told
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@dataclass(frozen=True, slots=True)
class PlantNetwork:
    """`there`: the plant's address. `inside`: what a command that runs in the plant stands behind. The ports of `drop` and `lose` are the
    plant's; other ports of it go on."""

    name: str
    wire: str
    there: str

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def drop(self, port: int) -> None:
        """The wire is cut for this port: no packet passes either way."""
        self._rules(port, "-A", ())

    def lose(self, port: int, share: float) -> None:
        """So many of its packets get lost, each way."""
        self._rules(port, "-A", ("-m", "statistic", "--mode", "random", "--probability", f"{share:g}"))

    def mend(self) -> None:
        """Every packet passes again."""
        _run(*self.inside, "iptables", "-F")

    def slow(self, kbit: int) -> None:
        """The wire takes no more than that from us."""
        _run("tc", "qdisc", "replace", "dev", self.wire, "root", "tbf", "rate", f"{kbit}kbit", "burst", "4kb", "latency", "400ms")

    def fast(self) -> None:
        """As much as it can."""
        _run("tc", "qdisc", "delete", "dev", self.wire, "root")

    def _rules(self, port: int, verb: str, which: tuple[str, ...]) -> None:
        for chain, side in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
            _run(*self.inside, "iptables", verb, chain, "-p", "tcp", side, str(port), *which, "-j", "DROP")


@contextmanager
def plant_network() -> Iterator[PlantNetwork]:
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    number = os.getpid() % 16_000
    subnet = f"10.97.{number // 64}.{number % 64 * 4}"
    here, there = (subnet.rpartition(".")[0] + f".{int(subnet.rpartition('.')[2]) + last}" for last in (1, 2))
    plant = PlantNetwork(f"plant{number}", f"pl{number}a", there)
    try:
        _run("ip", "netns", "add", plant.name)
        try:
            _run("ip", "link", "add", plant.wire, "type", "veth", "peer", "name", f"pl{number}b", "netns", plant.name)
            _run("ip", "address", "add", f"{here}/30", "dev", plant.wire)
            _run("ip", "link", "set", plant.wire, "up")
            for command in (("address", "add", f"{there}/30", "dev", f"pl{number}b"), ("link", "set", f"pl{number}b", "up")):
                _run("ip", "-n", plant.name, *command)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace: {error.stderr.decode().strip()}")
        yield plant
    finally:
        # The wire first: with its namespace it would go some time later.
        for command in (("link", "delete", plant.wire), ("netns", "delete", plant.name)):
            subprocess.run(["ip", *command], capture_output=True, timeout=20, check=False)
