"""Where the slots lie: one file in shared memory for each state directory, and beside it what a fatal signal leaves."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from edged.flights.evidence import Evidence, gather, watch
from edged.flights.flights import Flights
from edged.flights.slots import BYTES, HEAD, PLACE, Slots

log = structlog.get_logger("edged.flights")
SHM: Final = Path("/dev/shm")  # noqa: S108 - POSIX shared memory has this one place on Linux


@contextmanager
def opened(state_dir: Path, shm: Path = SHM) -> Iterator[Flights]:
    """Around a run, by whoever holds the state directory's lock. Without shared memory it runs all the same, and remembers nothing."""
    _sweep(shm)
    place = hashlib.blake2b(os.fsencode(state_dir.resolve()), digest_size=8).hexdigest()
    file, stack = shm / f"edged-flights-{os.geteuid()}-{place}", shm / f"edged-stack-{os.geteuid()}-{place}"
    slots, evidence = Slots(), Evidence()
    try:
        memory, evidence = _mapped(file, state_dir), gather(stack)
        slots = Slots(memory)
        watch(stack)
    except OSError as error:
        hint = f"Let the daemon's user create files in {shm}. Until then an image that ends the daemon is not found out."
        log.warning("flights.unavailable", cause=f"{error.strerror or error}", hint=hint)
    if evidence.crashed:
        sys.stderr.write(evidence.stack)
    flights = Flights(slots, evidence)
    with flights:
        yield flights
    if not flights.remembers:  # after an exception they stay, for the next start
        for name in (file, stack):
            name.unlink(missing_ok=True)


def _mapped(file: Path, state_dir: Path) -> mmap.mmap:
    """The file's memory, made when it is not there. Raises OSError."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise FileExistsError(f"{file} belongs to somebody else")
        if facts.st_size != BYTES:
            os.ftruncate(descriptor, 0)
        os.posix_fallocate(descriptor, 0, BYTES)  # no page may be missing later: touching it would end the process
        memory = mmap.mmap(descriptor, BYTES)
        told = os.fsencode(state_dir.resolve())[: HEAD - PLACE]
        memory[PLACE:HEAD] = told.ljust(HEAD - PLACE, b"\0")
        return memory
    finally:
        os.close(descriptor)


def _sweep(shm: Path) -> None:
    """What belongs to a state directory that is no more."""
    for file in shm.glob(f"edged-flights-{os.geteuid()}-*"):
        with suppress(OSError):
            with file.open("rb") as opened_file:
                place = opened_file.read(HEAD)[PLACE:].rstrip(b"\0")
            if place and not os.path.lexists(place):
                file.with_name(file.name.replace("-flights-", "-stack-", 1)).unlink(missing_ok=True)
                file.unlink(missing_ok=True)
