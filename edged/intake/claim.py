"""One instance of edged on this machine watches a folder, however many may be configured to.

Invariants
- A claim is an abstract unix socket named by the folder's device and inode: the kernel takes it back when the process ends, however it
  ends, it needs no directory that two instances may both write, and it keeps no mount busy.
- It is given back while the folder is away: its device number may belong to another share by then.
"""

from __future__ import annotations

import os
import socket
import struct
import weakref

from edged.errors import Unavailable
from edged.intake.looking import Place

_BACKLOG = 16


class Claim:
    """One camera's claim to its folder. `what` names the folder in errors."""

    def __init__(self, what: str, folder: str) -> None:
        self._what, self._folder = what, folder
        self._place: Place | None = None
        self._end: weakref.finalize[..., Claim] | None = None
        self._owner = 0

    def take(self, place: Place) -> None:
        """Raises Unavailable while another process has it. Another camera of this process may watch the same folder."""
        if self._end is not None and place == self._place:
            return
        self.give_back()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        address = f"\0edged-folder-{place[0]:x}-{place[1]:x}"
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            self._refuse(address)
            return
        # Not closed when intake ends: what it sent is still being judged and disposed of. The end of the process gives it back.
        self._end, self._place, self._owner = weakref.finalize(self, os.close, sock.detach()), place, 0

    def give_back(self) -> None:
        if self._end is not None:
            self._end()
        self._end = None

    def _refuse(self, address: str) -> None:
        self._owner = self._owner or _owner(address)
        if self._owner == os.getpid():
            self._owner = 0
            return
        process = f" (process {self._owner})" if self._owner else ""
        cause = f"another edged{process} watches {self._folder}"
        raise Unavailable(self._what, cause, "Stop that one, or give this camera a folder of its own; it goes on when that one has ended.")


def _owner(address: str) -> int:
    """The process that listens there; 0 when it cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(address)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    return int(struct.unpack("3i", credentials)[0])
