"""Whether the system clock is disciplined (NTP, PTP), as the kernel says: no daemon is asked."""

from __future__ import annotations

import ctypes
from typing import ClassVar

STA_UNSYNC = 0x0040
TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """The head of the kernel's `struct timex`; the rest is room."""

    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def clock_state() -> str:
    """`synced`, `unsynced`, or `unknown` where the kernel does not tell."""
    if not hasattr(_libc, "adjtimex"):
        return "unknown"
    timex = _Timex()  # modes 0: reads, changes nothing, needs no privilege
    state = _libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        return "unknown"
    return "unsynced" if state == TIME_ERROR or timex.status & STA_UNSYNC else "synced"
