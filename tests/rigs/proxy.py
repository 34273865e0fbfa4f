"""A bad line: a TCP proxy on loopback that passes, swallows, delays, cuts and resets. Runs on a loop in a thread of its own.

with Proxy(broker.port) as line:
    ... connect to line.port ...
    line.deaf = True        # the broker's answers get lost
    line.reset_all()        # RST to both ends
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from rigs.processes import LOOPBACK

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing says RST."""


class Proxy:
    """Set at any time: `down`: who connects is reset at once. `silent`: nothing passes either way, nobody is told. `deaf`: the broker's
    answers get lost. `delay_s`: each way. `cut_after`: so many more bytes pass to the broker, then both ends are reset."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.down = self.silent = self.deaf = False
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.connections = 0
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, LOOPBACK, 0), self._loop).result(5)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def reset_all(self) -> None:
        """RST to both ends of every connection."""
        asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result(5)

    async def _end(self) -> None:
        self._server.close()
        await self._reset()
        ours = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if ours:
            await asyncio.wait(ours, timeout=2)  # each ends with its connection

    async def _reset(self) -> None:
        for writer in list(self._open):
            _reset(writer)
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        if self.down:
            return _reset(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self.target)
        except OSError:
            return _reset(writer)
        self._open.add(up_writer)
        ways = (self._pass(reader, up_writer, up=True), self._pass(up_reader, writer, up=False))
        both = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in both:
                each.cancel()
            for end in (writer, up_writer):
                self._open.discard(end)
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.silent or (self.deaf and not up):
                    continue
                if up and self.cut_after is not None:
                    passed = data[: self.cut_after]
                    self.cut_after -= len(data)
                    writer.write(passed)
                else:
                    writer.write(data)
                await writer.drain()
                if up and self.cut_after is not None and self.cut_after <= 0:
                    self.cut_after = None
                    await self._reset()
        except OSError:
            return


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
