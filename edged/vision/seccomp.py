"""The system calls that are left to a decoder process, as a seccomp filter, and Landlock behind it where the kernel has that.

Invariants
- What is not in the list is refused with EPERM: no socket, no other program, no other process, nothing opened for writing, no new code.
- The list is one for all architectures; a name that an architecture lacks is left out. A machine without its own numbers here gets no
  filter, and `confine` says so.
- Nothing is raised: a kernel or a container that refuses costs a layer, never the decoder.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Mapping

from edged.vision.syscalls import ARCHITECTURES, LANDLOCK, Architecture

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE, _ABSENT, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EXECUTABLE = 4
_THREAD = 0x00000100 | 0x00000800 | 0x00010000  # CLONE_VM | CLONE_SIGHAND | CLONE_THREAD: with these it is no process
_NAMESPACES = 0x7E020000
_FCNTL = (1, 2, 3, 4)  # get and set flags: no duplicates, or `ftruncate` of the standard error would reach the rings

_PLAIN = (
    "read", "newfstatat", "recvmsg", "sendto", "close", "pwritev2", "pread64", "lseek", "fstat", "futex", "clock_gettime", "brk", "munmap",
    "madvise", "mremap", "write", "pwritev", "pwrite64", "readv", "preadv", "preadv2", "writev", "sendmsg", "recvfrom",
    "getsockopt", "getsockname", "stat", "lstat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents64",
    "getcwd", "poll", "ppoll", "select", "pselect6", "nanosleep", "clock_nanosleep", "clock_getres", "gettimeofday", "time", "times",
    "getrandom", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getrlimit", "getrusage", "sysinfo", "uname",
    "getcpu", "sched_yield", "sched_getaffinity", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "set_robust_list", "rseq", "membarrier", "exit", "exit_group",
)  # fmt: skip
_FALLS_BACK = ("clone3", "openat2")  # their flags lie in memory, where a filter cannot look; the C library goes on with the older call

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def program(machine: Architecture, pid: int) -> list[Instruction]:
    """The filter for process `pid` as (code, jump if true, jump if false, value)."""
    numbers = machine.numbers
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine.audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for name in _PLAIN:
        if name in numbers:
            code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ALLOW)]
    for name in _FALLS_BACK:
        code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ABSENT)]
    for name, checks in _conditions(pid).items():
        if name in numbers:
            body = [step for check in checks for step in check]
            code += [(_EQUAL, 0, len(body) + 1, numbers[name]), *body, (_RETURN, 0, 0, _ALLOW)]
    return [*code, (_RETURN, 0, 0, _REFUSE)]


def _conditions(pid: int) -> Mapping[str, list[list[Instruction]]]:
    """Calls that depend on their arguments; each check refuses or falls through."""
    return {
        "openat": [_none_of(2, _WRITES)],
        "open": [_none_of(1, _WRITES)],
        "mmap": [_none_of(2, _EXECUTABLE)],
        "mprotect": [_none_of(2, _EXECUTABLE)],
        "fcntl": [_one_of(1, _FCNTL)],
        "ftruncate": [_one_of(0, (2,))],  # the parent reads what codecs say on standard error; it must not grow for ever
        "tgkill": [_one_of(0, (pid,))],  # abort()
        "prlimit64": [_is_null(0), _is_null(2)],  # to read its own
        "clone": [_all_of(0, _THREAD), _none_of(0, _NAMESPACES)],
    }


def _load(argument: int, *, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * argument + 4 * high)


def _none_of(argument: int, bits: int) -> list[Instruction]:
    return [_load(argument), (_ANY_BIT, 0, 1, bits), (_RETURN, 0, 0, _REFUSE)]


def _all_of(argument: int, bits: int) -> list[Instruction]:
    return [_load(argument), (_AND, 0, 0, bits), (_EQUAL, 1, 0, bits), (_RETURN, 0, 0, _REFUSE)]


def _one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """For arguments that the kernel takes as 32 bits."""
    tests = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load(argument), *tests, (_RETURN, 0, 0, _REFUSE)]


def _is_null(argument: int) -> list[Instruction]:
    return [step for high in (False, True) for step in (_load(argument, high=high), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _REFUSE))]


def confine() -> tuple[tuple[str, ...], str]:
    """Gives up everything but the list, for this process and its threads: (the layers that hold, why there is no filter).

    For good; PR_SET_NO_NEW_PRIVS must be set before.
    """
    layers = ["landlock"] if _landlock() else []
    problem = _filter()
    return (*layers, *(() if problem else ("seccomp",))), problem


def _filter() -> str:
    """Empty when the filter holds."""
    machine = ARCHITECTURES.get(platform.machine())
    if machine is None or sys.byteorder != "little" or sys.maxsize < 1 << 32:
        return f"edged knows no system call numbers of {platform.machine()}"
    code = b"".join(struct.pack("HBBI", *step) for step in program(machine, os.getpid()))
    held = ctypes.create_string_buffer(code, len(code))
    made = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(machine.numbers["seccomp"], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(made)) == 0:
        return ""
    # A container or a unit's SystemCallFilter= may know the older way only.
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(made), 0, 0) == 0:
        return ""
    return f"the kernel refuses the filter: {os.strerror(ctypes.get_errno())}"


def _landlock() -> bool:
    """No right to any file's content but to read it, no TCP, no signal outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK.create, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    attributes = struct.pack("=QQQ", LANDLOCK.files(version), 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = libc.syscall(LANDLOCK.create, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.syscall(LANDLOCK.restrict, ruleset, 0) == 0)
    finally:
        os.close(ruleset)
