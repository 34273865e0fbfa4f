"""A decoder process: reads, checks, hashes, decodes, measures and prepares images, and writes tensors into the slots it is told.

Invariants
- It holds no mapping of a ring: tensors are written with pwrite into the one slot a job names, so no codec can scribble over another image.
- One message in, one message out (`forget` has no answer). It keeps nothing but the file of the job it may be asked to go on with.
- `phase` says at any moment what it is doing, in memory its parent can read after its death.
- It may be killed at any moment without harm to anything but its own slots.

Run by the daemon: `python -m edged.vision.child SOCKET PHASE PARENT SETTINGS`.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
from typing import Any

from edged.vision import sandbox
from edged.vision.wire import FORGET, IDLE, MAX_MESSAGE, PLANS, RING, Phase


def main(arguments: list[str]) -> int:
    """Serves jobs until the socket closes. Exit status 0 then; any exception is a bug and ends the process with a traceback."""
    sock_fd, phase_fd, parent = (int(text) for text in arguments[:3])
    sandbox.die_with(parent)
    settings = json.loads(arguments[3])
    # Imported only now: the environment's limits are read at import, and a parent that died meanwhile is noticed before.
    from edged.vision.worker import Worker  # noqa: PLC0415

    phase = Phase(mmap.mmap(phase_fd, mmap.PAGESIZE))
    worker = Worker(settings, phase)
    worker.warm()
    _, unfiltered = sandbox.restrict(settings["memory_bytes"])
    with socket.socket(fileno=sock_fd) as sock:
        sock.send(json.dumps({"hello": os.getpid(), "unfiltered": unfiltered}).encode())
        serve(sock, worker, phase)
    return 0


def serve(sock: socket.socket, worker: Any, phase: Phase) -> None:
    """The loop: ring descriptors and plans are kept, a job is answered, EOF ends it."""
    while True:
        data, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, 1)
        if not data:
            return
        message = json.loads(data)
        kind = message.get("kind")
        if kind == RING:
            worker.ring(message["ring"], fds[0], message["nbytes"])
        elif kind == PLANS:
            worker.plans(message["plans"], message["each"])
        elif kind == FORGET:
            worker.forget()
        else:
            answers = [worker.answer(job) for job in message["jobs"]]
            phase.set(IDLE)
            sock.send(json.dumps({"answers": answers}, separators=(",", ":")).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
