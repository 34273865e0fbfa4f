"""What a decoder process may still do when a hostile image has taken it over: read, compute and answer, and nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contract.decoder_images import Notes, landing, plan, wafer, write
from edged.config import Decode
from edged.nouns import HealthStatus
from edged.vision import sandbox, seccomp
from edged.vision.decoders import Decoders
from edged.vision.syscalls import ARCHITECTURES, Architecture

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

DEEDS = """
import ctypes, errno, json, mmap, os, resource, socket, struct, sys, threading
from pathlib import Path
from edged.vision import sandbox, seccomp
folder, layers = Path(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def thread():
    said = []
    one = threading.Thread(target=said.append, args=(1,))
    one.start(); one.join()
    assert said == [1]
def forked():
    if os.fork() == 0:
        os._exit(0)
def executable():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
listening = socket.create_server(("127.0.0.1", 0))
made, there = socket.socket(), open(folder / "there", "rb")
deeds = {
    "make a socket": lambda: socket.socket(),
    "make a unix socket": lambda: socket.socket(socket.AF_UNIX),
    "connect": lambda: made.connect(listening.getsockname()),
    "listen": lambda: made.bind(("127.0.0.1", 0)),
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "run a program by descriptor": lambda: os.execve(os.open("/bin/true", os.O_RDONLY), ["true"], {}),
    "fork": forked,
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "create a file": lambda: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
    "create an unnamed file": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR),
    "create a file in memory": lambda: os.memfd_create("x"),
    "open a file to write": lambda: os.open(folder / "there", os.O_RDWR),
    "empty a file": lambda: os.open(folder / "there", os.O_RDONLY | os.O_TRUNC),
    "empty a file by name": lambda: os.truncate(folder / "there", 0),
    "delete": lambda: os.unlink(folder / "there"),
    "rename": lambda: os.rename(folder / "there", folder / "here"),
    "make a directory": lambda: os.mkdir(folder / "d"),
    "make a link": lambda: os.symlink("there", folder / "l"),
    "make a hard link": lambda: os.link(folder / "there", folder / "h"),
    "make a FIFO": lambda: os.mkfifo(folder / "f"),
    "change rights": lambda: os.chmod(folder / "there", 0o777),
    "change a time": lambda: os.utime(folder / "there"),
    "mount": lambda: call("mount", b"none", os.fsencode(folder), b"tmpfs", 0, None),
    "leave its namespaces": lambda: call("unshare", 0x10000000),
    "trace its parent": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "read its parent's memory": lambda: call("process_vm_readv", os.getppid(), None, 0, None, 0, 0),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "raise its limits": lambda: call("prlimit", 0, resource.RLIMIT_FSIZE, struct.pack("QQ", 1 << 40, 1 << 40), None),
    "be spared when memory is short": lambda: Path("/proc/self/oom_score_adj").write_text("0"),
    "copy a descriptor": lambda: os.dup(there.fileno()),
    "map code": executable,
    "use io_uring": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(256)),
    "watch a folder": lambda: call("inotify_init1", 0),
    "become another user": lambda: os.setuid(65534),
    "read a file": lambda: (folder / "there").read_bytes(),
    "look at a file": lambda: (folder / "there").stat(),
    "start a thread": thread,
    "take memory": lambda: bytearray(50 << 20),
}
assert libc.prctl(38, 1, 0, 0, 0) == 0
if layers == "all":
    held, problem = sandbox.restrict(1 << 28)
    assert held == ("landlock", "seccomp") or (held == ("seccomp",) and libc.syscall(444, None, 0, 1) < 1), (held, problem)
elif layers == "seccomp":
    assert seccomp._filter() == ""
else:
    assert seccomp._landlock() and libc.syscall(444, None, 0, 1) >= 6
done = {}
for name, deed in deeds.items():
    try:
        deed()
        done[name] = "done"
    except (OSError, RuntimeError) as error:
        done[name] = getattr(error, "errno", 0) in (errno.EPERM, errno.EACCES, errno.ENOSYS) or repr(error)
sys.stdout.write(json.dumps(done)); sys.stdout.flush()
"""
ALLOWED = {"read a file", "look at a file", "start a thread", "take memory"}
LANDLOCKED = {
    "connect", "listen", "run a program", "run a program by descriptor", "create a file", "create an unnamed file", "open a file to write",
    "empty a file", "empty a file by name", "delete", "rename", "make a directory", "make a link", "make a hard link", "make a FIFO",
    "signal its parent", "trace its parent", "be spared when memory is short",
}  # fmt: skip


def deeds(folder: Path, layers: str) -> dict[str, Any]:
    (folder / "there").write_bytes(b"content")
    done = subprocess.run(
        [sys.executable, "-c", DEEDS, folder, layers], stdout=subprocess.PIPE, text=True, check=True, timeout=40, env=ENVIRONMENT
    )
    assert (folder / "there").read_bytes() == b"content" and [path.name for path in folder.iterdir()] == ["there"]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("layers", ["all", "seccomp"])
def test_a_confined_process_reads_and_computes_and_can_do_nothing_else(tmp_path: Path, layers: str) -> None:
    done = deeds(tmp_path, layers)
    assert done == {name: "done" if name in ALLOWED else True for name in done}


def test_where_only_landlock_holds_no_file_is_written_no_program_run_and_nothing_connected(tmp_path: Path) -> None:
    if "landlock" not in sandbox.tried()[0]:
        pytest.skip("this kernel has no Landlock")
    done = deeds(tmp_path, "landlock")
    assert {name for name in LANDLOCKED if done[name] is not True} == set()
    assert {name for name in ALLOWED if done[name] != "done"} == set()


@asynccontextmanager
async def decoders(board: Notes, **config: Any) -> AsyncIterator[Decoders]:
    async with Decoders(Decode(**({"processes": 1, "slots": 4} | config)), {}, board) as running:
        yield running


async def judge(running: Decoders, path: Path) -> int:
    count = 0
    async for part in running.prepare(landing(path), "r", [plan()], None):
        for tensor in part.tensors:
            running.release(tensor)
            count += 1
    return count


async def test_the_process_that_decodes_is_confined_and_the_first_to_die_when_memory_is_short(tmp_path: Path) -> None:
    board = Notes()
    async with decoders(board, timeout_s=5) as running:
        assert await judge(running, write(tmp_path / "a.png", wafer(48, 64))) == 1
        there = Path(f"/proc/{running.pids[0]}")
        status = (there / "status").read_text()
        assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE) and re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
        assert int((there / "oom_score_adj").read_text()) == 800 > int(Path("/proc/self/oom_score_adj").read_text())
        limits = {line[:26].strip(): line[26:].split() for line in (there / "limits").read_text().splitlines()[1:]}
        ring = running.rings()[0]
        assert int(limits["Max file size"][0]) == max(1 << 20, Path(ring.path).stat().st_size)
        assert 5 <= int(limits["Max cpu time"][0]) <= 12
    assert {status for _, status, _ in board.said} == {HealthStatus.OK}


def test_a_process_that_uses_more_of_a_processor_than_its_images_may_is_ended_by_the_kernel() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        sandbox.allow_cpu_s(spinning.pid, 0)
        assert spinning.wait(timeout=30) == -signal.SIGXCPU


UNDER_A_UNIT = """
import asyncio, ctypes, json, struct, sys
from pathlib import Path
from contract.decoder_images import Notes
from contract.test_decoder_sandbox import decoders, judge
image, what, seccomp, prctl = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
refuse, allow = (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
if what == "written or run":
    assert libc.prctl(65, 1, 0, 0, 0) == 0
else:
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, seccomp), refuse]  # seccomp(2)
    if what == "no filter":
        code += [(0x15, 0, 3, prctl), (0x20, 0, 0, 16), (0x15, 0, 1, 22), refuse]  # prctl(PR_SET_SECCOMP)
    raw = b"".join(struct.pack("HBBI", *step) for step in [*code, allow])
    held = ctypes.create_string_buffer(raw, len(raw))
    assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(raw) // 8, ctypes.addressof(held)), 0, 0) == 0
async def main():
    board = Notes()
    async with decoders(board) as running:
        count = await judge(running, Path(image))
        there = Path(f"/proc/{running.pids[0]}")
        filters = int((there / "status").read_text().split("Seccomp_filters:")[1].split()[0])
        processes = next(line.split()[2] for line in (there / "limits").read_text().splitlines() if line.startswith("Max processes"))
    print(json.dumps([count, filters, processes, [[status, cause] for _, status, cause in board.said]]))
asyncio.run(main())
"""


def under(tmp_path: Path, what: str) -> Any:
    image = write(tmp_path / "a.png", wafer(48, 64))
    numbers = ["277", "167"] if platform.machine() == "aarch64" else ["317", "157"]
    command = [sys.executable, "-c", UNDER_A_UNIT, image, what, *numbers]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=50, env=ENVIRONMENT).stdout)


def test_a_unit_that_denies_memory_both_written_and_run_changes_nothing(tmp_path: Path) -> None:
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel has no PR_SET_MDWE, which is what MemoryDenyWriteExecute= would be here")
    count, filters, _, said = under(tmp_path, "written or run")
    assert (count, filters, {status for status, _ in said}) == (1, 1, {"ok"})


def test_a_unit_whose_filter_knows_the_older_call_only_changes_nothing(tmp_path: Path) -> None:
    count, filters, _, said = under(tmp_path, "no seccomp(2)")
    assert (count, filters, {status for status, _ in said}) == (1, 2, {"ok"})


def test_where_the_kernel_refuses_the_filter_images_are_judged_and_health_says_what_is_missing(tmp_path: Path) -> None:
    count, filters, processes, said = under(tmp_path, "no filter")
    assert (count, filters, processes) == (1, 1, "0")
    why = "the kernel refuses the filter: Operation not permitted"
    assert said[-1] == ["degraded", f"decoder processes run without their filter of system calls: {why}"]


def decides(machine: Architecture, name: str | int, *arguments: int, audit: int | None = None) -> str:
    """What the filter answers: the program run here, step by step, as the kernel runs it."""
    number = machine.numbers[name] if isinstance(name, str) else name
    words = [number, machine.audit if audit is None else audit, 0, 0]
    for argument in (*arguments, *[0] * 6)[:6]:
        words += [argument & 0xFFFFFFFF, argument >> 32]
    at, a = 0, 0
    code = seccomp.program(machine, pid=4711)
    while True:
        kind, yes, no, value = code[at]
        at += 1
        if kind == 0x20:
            a = words[value // 4]
        elif kind == 0x54:
            a &= value
        elif kind == 0x15:
            at += yes if a == value else no
        elif kind == 0x45:
            at += yes if a & value else no
        else:
            assert kind == 0x06
            return {0x7FFF0000: "allowed", 0x00050001: "refused", 0x00050026: "absent", 0x80000000: "killed"}[value]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_filter_of_each_architecture_decides_alike(name: str) -> None:
    machine, other = ARCHITECTURES[name], next(each for key, each in ARCHITECTURES.items() if key != name)
    assert decides(machine, "read") == decides(machine, "futex") == decides(machine, "exit_group") == "allowed"
    assert decides(machine, "openat", 0, 0, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) == "allowed"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR):
        assert decides(machine, "openat", 0, 0, flags) == "refused"
    assert decides(machine, "mmap", 0, 1, 3) == "allowed" and decides(machine, "mmap", 0, 1, 5) == "refused"
    assert decides(machine, "clone", 0x3D0F00) == "allowed" and decides(machine, "clone", 17) == "refused"
    assert decides(machine, "clone", 0x3D0F00 | 0x10000000) == "refused" and decides(machine, "clone3") == "absent"
    assert decides(machine, "fcntl", 7, 3) == "allowed" and decides(machine, "fcntl", 7, 0) == "refused"
    assert decides(machine, "ftruncate", 2, 0) == "allowed" and decides(machine, "ftruncate", 5, 0) == "refused"
    assert decides(machine, "tgkill", 4711, 1, 6) == "allowed" and decides(machine, "tgkill", 1, 1, 9) == "refused"
    assert decides(machine, "prlimit64", 0, 7, 0, 1) == "allowed"
    assert decides(machine, "prlimit64", 0, 7, 1 << 40, 1) == "refused" == decides(machine, "prlimit64", 1, 7, 0, 1)
    assert decides(machine, "seccomp") == "refused" == decides(machine, 425)
    assert decides(machine, "read", audit=other.audit) == "killed"
    assert decides(machine, 0x40000000) == "refused"  # x32


@pytest.mark.parametrize(
    ("name", "header", "other_names"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h", {}), ("aarch64", "asm-generic/unistd.h", {"newfstatat": "fstatat"})],
)
def test_the_numbers_are_those_of_the_kernels_own_headers(name: str, header: str, other_names: dict[str, str]) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip("the kernel's headers (linux-libc-dev) are not installed")
    theirs = {found[1]: int(found[2]) for found in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}
    ours = ARCHITECTURES[name].numbers
    assert {call: theirs[other_names.get(call, call)] for call in ours} == dict(ours)


def test_a_machine_whose_numbers_edged_does_not_know_gets_no_filter_and_says_so() -> None:
    asked = "import platform; platform.machine = lambda: 'riscv64'; from edged.vision import seccomp; print(seccomp.confine()[1])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert done.stdout == "edged knows no system call numbers of riscv64\n"
