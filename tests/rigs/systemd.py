"""A real systemd: this machine's own files under an overlay, booted in a container, with the real unit and a short watchdog.

Network and processor are the host's, so that Triton and the broker outside are reached over loopback. Needs root and systemd-nspawn.

Fixture
- `boot`: `boot(station, drop_in="") -> Machine`: the station's daemon becomes `edged.service` of that machine; ended after the test.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rigs.processes import wait_gone, wait_until
from rigs.station import Station

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = ("mosquitto", "postgresql", "e2scrub_reap", "triton")


class Machine:
    """`overlay`: what the container changes, seen from outside."""

    def __init__(self, home: Path, station: Station, drop_in: str) -> None:
        self.station, self.overlay, self.tree = station, home / "upper", home / "tree"
        self._home = home
        self._nspawn: subprocess.Popen[bytes] | None = None
        for folder in (self.overlay, self.tree, home / "work"):
            folder.mkdir()
        overlay = f"lowerdir=/,upperdir={self.overlay},workdir={home / 'work'}"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, str(self.tree)], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no overlay can be mounted here: {mounted.stderr.decode().strip()}")
        self._furnish(drop_in)

    def _furnish(self, drop_in: str) -> None:
        units, daemon = self.tree / "etc/systemd/system", self.station.daemon
        for name in NOT_OURS:
            (units / f"{name}.service").unlink(missing_ok=True)
            (units / f"{name}.service").symlink_to("/dev/null")
        (units / "edged.service").unlink(missing_ok=True)
        shutil.copy(ROOT / "systemd/edged.service", units)
        bind = daemon.url.removeprefix("http://")
        drop_in = f"[Service]\nEnvironment=EDGED_STATION__STATE_DIR=/var/lib/edged EDGED_HTTP__BIND={bind}\n{drop_in}"
        if ROOT.is_relative_to("/tmp"):
            drop_in += "PrivateTmp=no\n"  # else the program itself would be hidden
        self.drop_in(drop_in, name="rig.conf")
        (self.tree / "usr/lib/sysusers.d").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "systemd/edged.sysusers.conf", self.tree / "usr/lib/sysusers.d/edged.conf")
        (self.tree / "opt/edged").mkdir(parents=True, exist_ok=True)
        (self.tree / "opt/edged/bin").symlink_to(Path(sys.executable).parent)
        (self.tree / "etc/edged/credentials").mkdir(parents=True, exist_ok=True)
        for secret in ("mqtt.password", "mqtt.key", "http.tokens", "http.key"):
            (self.tree / "etc/edged/credentials" / secret).touch(mode=0o600)
        text = daemon.config.read_text()
        for name, folder in self.station.folders.items():
            text = text.replace(str(folder), f"/srv/drop/{name}")
        (self.tree / "etc/edged/edged.toml").write_text(text)
        # A user of its own must get to the program, wherever this checkout and its Python lie.
        for place in (ROOT, Path(sys.base_prefix)):
            for above in (place, *place.parents):
                inside = self.tree / above.relative_to("/")
                inside.mkdir(parents=True, exist_ok=True)
                inside.chmod(inside.stat().st_mode | 0o5)
        for folder in (*self.station.folders.values(), daemon.state):
            folder.chmod(0o777)

    def drop_in(self, text: str, name: str) -> None:
        folder = self.tree / "etc/systemd/system/edged.service.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def change(self, text: str) -> None:
        """The unit is as shipped but for this, from its next start on; what it did before counts no more."""
        self.drop_in(f"[Service]\n{text}", name="step.conf")
        self.run("daemon-reload")
        self.run("reset-failed", "edged.service")

    def boot(self) -> None:
        """Returns when systemd has started everything but edged."""
        binds = [f"--bind={folder}:/srv/drop/{name}" for name, folder in self.station.folders.items()]
        binds += [f"--bind-ro={ROOT}", f"--bind-ro={sys.base_prefix}"]
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "-D", str(self.tree), "--boot"]
        command[1:1] = [*binds, f"--bind={self.station.daemon.state}:/var/lib/edged"]
        with (self._home / "console.log").open("wb") as log:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.run("is-system-running").stdout.strip() in ("running", "degraded"), 60, "the container's systemd is up")

    @property
    def init(self) -> int:
        assert self._nspawn is not None, "it is not booted"
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, *arguments: str, program: str = "systemctl", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command inside the container; its exit status is the caller's to judge."""
        if not (init := self.init):
            return subprocess.CompletedProcess([], 1, "", "not up yet")
        command = ["nsenter", "-t", str(init), "-m", "-u", "-i", "-p", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def show(self, key: str) -> str:
        """A property of edged.service."""
        return self.run("show", "-P", key, "edged.service").stdout.strip()

    def start(self) -> None:
        """Returns when the daemon is ready to judge."""
        said = self.run("start", "edged.service")
        assert said.returncode == 0, f"{said.stderr}\n{self.journal()}"
        wait_until(lambda: self.station.daemon.get("/readyz") is not None, 60, f"the daemon is ready\n{self.journal()}")

    def stop(self) -> None:
        self.run("stop", "edged.service")

    def journal(self) -> str:
        return self.run("-u", "edged.service", "-o", "cat", "--no-pager", "-n", "200", program="journalctl").stdout

    def close(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            if init := self.init:
                os.kill(init, signal.SIGRTMIN + 3)  # systemd's word for: halt
            wait_gone(self._nspawn, 30)
        subprocess.run(["umount", "-l", str(self.tree)], check=False, capture_output=True)


@pytest.fixture
def boot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Machine]]:
    machines: list[Machine] = []

    def start(station: Station, drop_in: str = "") -> Machine:
        if os.getuid() != 0:
            pytest.skip("only root can boot a container")
        for program in ("systemd-nspawn", "nsenter"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not on this machine (scripts/setup --rigs)")
        machine = Machine(tmp_path_factory.mktemp("machine"), station, drop_in)
        machines.append(machine)
        machine.boot()
        return machine

    yield start
    for machine in machines:
        machine.close()
