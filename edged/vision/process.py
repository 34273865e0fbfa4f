"""The daemon's end of one decoder process: start it, talk to it, see what it is doing, end it."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from edged.vision import sandbox
from edged.vision.wire import MAX_MESSAGE, Phase


class DecoderProcess:
    """Started at once. `exited` becomes readable when it has ended; `sock` when it has answered. Raises OSError, and nothing is left."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            self.sock, their_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.enter_context(self.sock)
            theirs.enter_context(their_sock)
            phase_fd = os.memfd_create("edged-phase", os.MFD_CLOEXEC)
            theirs.callback(os.close, phase_fd)
            os.ftruncate(phase_fd, mmap.PAGESIZE)
            self._memory = undo.enter_context(mmap.mmap(phase_fd, mmap.PAGESIZE, prot=mmap.PROT_READ))
            self._phase = Phase(self._memory)
            self._stderr = os.memfd_create("edged-stderr", os.MFD_CLOEXEC)
            undo.callback(os.close, self._stderr)
            # Opened anew for appending: the child empties the file when it grows, and what it writes next must begin at its start.
            stderr = os.open(f"/proc/self/fd/{self._stderr}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            theirs.callback(os.close, stderr)
            arguments = [str(their_sock.fileno()), str(phase_fd), str(os.getpid()), json.dumps(settings)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edged.vision.child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(their_sock.fileno(), phase_fd),
                env=sandbox.environment(settings["max_pixels"], settings["max_side_px"], os.environ),
                cwd="/",
            )
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self.sock.setblocking(False)
            self.exited = os.pidfd_open(self._process.pid)
            self._file_bytes = 0
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def phase(self) -> bytes:
        """What it is doing; its last deed once it has ended."""
        return self._phase.get()

    @property
    def job_number(self) -> int:
        """The job it is, or was at its end, working on."""
        return self._phase.number()

    def allow_file_bytes(self, nbytes: int) -> None:
        """It may write as far as this in any file from now on, if it might not before."""
        if nbytes > self._file_bytes:
            self._file_bytes = nbytes
            sandbox.allow_file_bytes(self.pid, nbytes)

    def allow_cpu_s(self, seconds: float) -> None:
        sandbox.allow_cpu_s(self.pid, seconds)

    def send(self, message: Mapping[str, Any], fd: int | None = None) -> bool:
        """False when it cannot be told any more; its end will be seen at `exited`."""
        data = json.dumps(message, separators=(",", ":")).encode()
        try:
            if fd is None:
                self.sock.send(data)
            else:
                socket.send_fds(self.sock, [data], [fd])
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """Its next answer, None when there is none. Raises ValueError on nonsense, EOFError when it has closed its end."""
        try:
            data = self.sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return None
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        try:
            message = json.loads(data)
        except RecursionError:
            raise ValueError("nested without end") from None
        if not isinstance(message, dict):
            raise ValueError("not an object")  # noqa: TRY004 - nonsense of any kind is one case
        return message

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Asks it to end: an idle one does so at once."""
        self.sock.shutdown(socket.SHUT_RDWR)

    def cause(self) -> str:
        """Why it ended, in words. Call after `exited`."""
        status = self._process.wait()
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}: {self.last_words()}"

    def last_words(self) -> str:
        """The last line it wrote on stderr."""
        size = os.fstat(self._stderr).st_size
        lines = os.pread(self._stderr, 4096, max(0, size - 4096)).decode("utf-8", "replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """Frees everything held for it. Call after `exited`."""
        self._process.wait()
        self.sock.close()
        os.close(self.exited)
        os.close(self._stderr)
        self._memory.close()
