"""Numbers of Linux system calls, by architecture: the kernel's asm/unistd.h, for the names that `seccomp` knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """`audit`: how the kernel names it to a filter (AUDIT_ARCH_*)."""

    audit: int
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Landlock:
    """The same numbers everywhere."""

    create: int = 444
    restrict: int = 446

    @staticmethod
    def files(version: int) -> int:
        """All rights to files that this version of Landlock knows, but to read files and directories."""
        known = 13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16
        return (1 << known) - 1 & ~(1 << 2 | 1 << 3)


LANDLOCK = _Landlock()

_X86_64 = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
    "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19,
    "writev": 20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44,
    "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "getsockname": 51, "getsockopt": 55, "clone": 56, "exit": 60, "uname": 63, "fcntl": 72,
    "ftruncate": 77, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100,
    "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201,
    "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "tgkill": 234, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "preadv": 295, "pwritev": 296, "prlimit64": 302, "getcpu": 309, "seccomp": 317,
    "getrandom": 318, "membarrier": 324, "preadv2": 327, "pwritev2": 328, "statx": 332, "rseq": 334, "clone3": 435, "openat2": 437,
    "faccessat2": 439,
}  # fmt: skip

_AARCH64 = {
    "getcwd": 17, "fcntl": 25, "ftruncate": 46, "faccessat": 48, "openat": 56, "close": 57, "getdents64": 61, "lseek": 62, "read": 63,
    "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "preadv": 69, "pwritev": 70, "pselect6": 72, "ppoll": 73,
    "readlinkat": 78, "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99, "nanosleep": 101,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
    "restart_syscall": 128, "tgkill": 131, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
    "times": 153, "uname": 160, "getrlimit": 163, "getrusage": 165, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "getppid": 173,
    "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "getsockname": 204, "sendto": 206,
    "recvfrom": 207, "getsockopt": 209, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216, "clone": 220,
    "mmap": 222, "mprotect": 226, "madvise": 233, "prlimit64": 261, "seccomp": 277, "getrandom": 278, "membarrier": 283, "preadv2": 286,
    "pwritev2": 287, "statx": 291, "rseq": 293, "clone3": 435, "openat2": 437, "faccessat2": 439,
}  # fmt: skip

ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, _X86_64),
    "aarch64": Architecture(0xC00000B7, _AARCH64),
}
