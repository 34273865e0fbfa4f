"""A whole machine under emulation: what this kernel lacks (SMB, NFS, device mapper), and a power cut of all of it at once.

The system is made once by debootstrap and kept in .setup/guest; each boot runs one shell script as root and prints to the serial line.
Needs root, qemu and debootstrap (NOT RUN without), some minutes the first time, and half a minute to a minute for each boot.

    guest = make(script="echo RIG hello")
    guest.start(); guest.heard("hello", 300); guest.kill()
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rigs.processes import wait_gone, wait_until, with_parent

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".setup/guest"
HOST = "10.0.2.2"
"""This machine's loopback, as the guest sees it."""
PACKAGES = (
    "systemd,systemd-sysv,udev,kmod,iproute2,procps,python3,samba,cifs-utils,nfs-kernel-server,nfs-common,dmsetup,e2fsprogs,"
    "linux-image-cloud-amd64"
)
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'mkdir -p /rig && mount /dev/vdb /rig && cd /rig && exec bash /rig/run.sh'
ExecStopPost=/bin/echo RIG ended
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
[Install]
WantedBy=multi-user.target
"""
PROLOGUE = """
mkdir -p /usr/local/lib/python3.11/dist-packages
echo /opt/site-packages > /usr/local/lib/python3.11/dist-packages/rig.pth  # for decoders too, which inherit no path
export PYTHONPATH=/opt/edged:/opt/edged/tests PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
ip link set lo up
nic=$(ls /sys/class/net | grep -v lo | head -n 1)
ip addr add 10.0.2.15/24 dev "$nic"; ip link set "$nic" up; ip route add default via 10.0.2.2
echo RIG up
"""


def _built() -> Path:
    """The system's disk, made where there is none. It holds the libraries, and nothing of ours that changes."""
    disk = KEPT / "disk.ext4"
    stamp, wanted = KEPT / "made-from", f"{PACKAGES}\n{UNIT}\n{(ROOT / 'requirements.lock').stat().st_size}"
    if disk.exists() and stamp.exists() and stamp.read_text() == wanted:
        return disk
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    tree = KEPT / "tree"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        shutil.rmtree(KEPT, ignore_errors=True)
        pytest.skip(f"debootstrap cannot make a system here: {made.stdout.strip().splitlines()[-1:]}")
    unit = tree / "etc/systemd/system/rig.service"
    unit.write_text(UNIT)
    (unit.parent / "multi-user.target.wants/rig.service").symlink_to(unit.relative_to(tree).as_posix())
    for service in ("smbd", "nmbd", "winbind", "samba-ad-dc", "nfs-server", "getty@tty1", "serial-getty@ttyS0", "apt-daily.timer"):
        (unit.parent / (service if "." in service else f"{service}.service")).unlink(missing_ok=True)
        (unit.parent / (service if "." in service else f"{service}.service")).symlink_to("/dev/null")
    shutil.copytree(sysconfig.get_path("purelib"), tree / "opt/site-packages", symlinks=True, ignore=shutil.ignore_patterns("mypy", "pip"))
    for file in (tree / "boot").glob("*-cloud-amd64"):
        shutil.copy(file, KEPT / file.name.partition("-")[0])
    with disk.open("wb") as image:
        image.truncate(4 * 1024**3)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(disk)], check=True, capture_output=True)
    shutil.rmtree(tree)
    stamp.write_text(wanted)
    return disk


class Guest:
    """`said`: its serial line so far. `data`: a disk of its own that outlives a power cut, /dev/vdc in the guest."""

    def __init__(self, home: Path, script: str, files: Mapping[str, bytes]) -> None:
        self._disk, self._home, self._log = _built(), home, home / "serial.log"
        self.data = home / "data.img"
        rig = home / "rig"
        for folder, name in ((ROOT / "edged", "edged"), (ROOT / "tests/rigs", "tests/rigs"), (ROOT / "tests/contract", "tests/contract")):
            shutil.copytree(folder, rig / "opt" / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "model_repository", rig / "opt/model_repository")
        for name, content in files.items():
            (rig / name).parent.mkdir(parents=True, exist_ok=True)
            (rig / name).write_bytes(content)
        (rig / "run.sh").write_text("mkdir -p /opt/edged; mount --bind /rig/opt /opt/edged\n" + PROLOGUE + script)
        with (home / "rig.img").open("wb") as image:
            image.truncate(256 * 1024**2)
        subprocess.run(["mkfs.ext4", "-q", "-d", str(rig), str(home / "rig.img")], check=True, capture_output=True)
        with self.data.open("wb") as image:
            image.truncate(256 * 1024**2)
        self._qemu: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._log.write_bytes(b"")
        drives = [(self._disk, ",snapshot=on"), (self._home / "rig.img", ",snapshot=on"), (self.data, ",cache=writeback")]
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-nographic", "-no-reboot"]
        command += ["-kernel", str(KEPT / "vmlinuz"), "-initrd", str(KEPT / "initrd.img")]
        command += ["-append", "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=0"]
        for drive, how in drives:
            command += ["-drive", f"file={drive},if=virtio,format=raw{how}"]
        command += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]
        with self._log.open("wb") as log:
            self._qemu = subprocess.Popen(with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def running(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def lines(self) -> list[str]:
        """What the script said in lines that begin with RIG; the last one only when it is whole."""
        text = self._log.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        return [line.partition("RIG ")[2].strip() for line in whole.splitlines() if "RIG " in line]

    def heard(self, word: str, timeout_s: float = 600, count: int = 1) -> list[str]:
        """Once `count` lines begin with the word: all of them."""

        def there() -> bool:
            return sum(line.startswith(word) for line in self.lines()) >= count or not self.running or "ended" in self.lines()

        wait_until(there, timeout_s, f"the guest says {word} {count} times; it said {self.tail()}")
        found = [line for line in self.lines() if line.startswith(word)]
        assert len(found) >= count, f"the guest ended without saying {word}: {self.tail()}"
        return found

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """The power is cut: what the guest had not flushed to its disk is gone."""
        if self._qemu is not None:
            self._qemu.kill()
            wait_gone(self._qemu, 20)
            self._qemu = None


@pytest.fixture
def make_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Guest]]:
    """`make_guest(script, files={}) -> Guest`, not started; ended after the test."""
    guests: list[Guest] = []

    def make(script: str, files: Mapping[str, bytes] | None = None) -> Guest:
        if os.getuid() != 0:
            pytest.skip("making the guest's system needs root")
        for program in ("qemu-system-x86_64", "debootstrap", "mkfs.ext4"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not on this machine (Debian: qemu-system-x86, debootstrap, e2fsprogs)")
        if sys.version_info[:2] != (3, 11):
            pytest.skip("the guest's Python is 3.11; make .venv with it")
        guests.append(Guest(tmp_path_factory.mktemp("guest"), script, files or {}))
        return guests[-1]

    yield make
    for guest in guests:
        guest.kill()
