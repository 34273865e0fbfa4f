"""The listening socket: TLS, deadlines for slow clients, a bounded number of connections.

Invariants
- A connection that has not sent a whole request within `HEADER_S`, or is idle that long, is closed.
- At most `MAX_CONNECTIONS` are open; one more is answered 503 and closed at once.
- The inspection never depends on this door: while the address cannot be bound, health says so and binding is tried again.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from edged.config import Http
from edged.errors import ConfigError, ConfigProblem
from edged.nouns import Board, HealthStatus
from edged.web.answers import Refused, problem
from edged.web.app import application
from edged.web.auth import Tokens
from edged.web.views import StationView

HEADER_S = 10.0
LINGER_S = 2.0
UNREAD_S = 20
MAX_CONNECTIONS = 64
RETRY_BIND_S = 5.0


class Conversation(web.RequestHandler):
    """One client's connection; answers what never reached the application as a problem too."""

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        log = structlog.get_logger("edged.web")
        if request.writer.output_size > 0:
            raise ConnectionError("the client left while its answer was sent")
        if status == 500:
            log.error("http.bug", method=request.method, path=request.path, exc_info=exc)
            refused = Refused(500, "The station could not answer because of a fault of its own; its log has the details.")
        elif status == 504:
            refused = Refused(504, "The answer took too long.", "Try again.")
        else:
            log.debug("http.malformed", said=message)
            refused = Refused(status, "The request is not valid HTTP/1.1.")
        answer = problem(request.path if status >= 500 else "/", refused)
        answer.force_close()
        return answer


class TooMany(asyncio.Protocol):
    """Turns away one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        body = json.dumps({"type": "urn:edged:problem:service-unavailable", "title": "Service Unavailable", "status": 503,
                           "detail": f"{MAX_CONNECTIONS} connections are open already."}).encode()  # fmt: skip
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        transport.write(f"{head}Retry-After: 5\r\nConnection: close\r\n\r\n".encode() + body)
        transport.close()


class Door:
    """Serves `view` at `[http] bind` while `run` runs. Raises ConfigError for tokens or a certificate that cannot be used."""

    def __init__(self, config: Http, view: StationView, board: Board) -> None:
        self._config = config
        self._view = view
        self._board = board
        self._tokens = Tokens(config.tokens_file)
        self._tls = _tls(config)
        self.opened = asyncio.Event()
        self.url: str | None = None
        """Where the page is, once `opened` is set."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, then lets answers under way finish."""
        runner = web.AppRunner(application(self._config, self._view, self._tokens), access_log=None, shutdown_timeout=LINGER_S)
        await runner.setup()
        try:
            async with self._listening(runner, stop):
                await stop.wait()
        finally:
            await runner.cleanup()

    @asynccontextmanager
    async def _listening(self, runner: web.AppRunner, stop: asyncio.Event) -> AsyncIterator[None]:
        bound = await self._bind(stop)
        if bound is None:
            yield
            return
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _connection(runner, loop), sock=bound, ssl=self._tls, backlog=MAX_CONNECTIONS)
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if self._tls else 'http'}://{shown}:{port}/"
        self.opened.set()
        self._board.report("http", HealthStatus.OK, url=self.url)
        try:
            yield
        finally:
            server.close()

    async def _bind(self, stop: asyncio.Event) -> socket.socket | None:
        host, _, port = self._config.bind.rpartition(":")
        while not stop.is_set():
            try:
                return _socket(host.strip("[]"), int(port))
            except OSError as error:
                cause = f"The address {self._config.bind} cannot be bound: {error.strerror or error}."
                hint = "End the program that uses it, or change [http] bind and restart edged."
                self._board.report("http", HealthStatus.DEGRADED, cause, hint)
            try:
                await asyncio.wait_for(stop.wait(), RETRY_BIND_S)
            except TimeoutError:
                continue
        return None


def _connection(runner: web.AppRunner, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
    server = runner.server
    assert server is not None
    if len(server.connections) >= MAX_CONNECTIONS:
        return TooMany()
    return Conversation(server, loop=loop, keepalive_timeout=HEADER_S, lingering_time=LINGER_S, auto_decompress=False, max_headers=64)


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: a client that never reads what was sent is dropped by the kernel.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _tls(config: Http) -> ssl.SSLContext | None:
    if config.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        problem_text = f"the certificate and its key cannot be used: {getattr(error, 'reason', None) or error.strerror or error}"
        hint = "tls_cert is a PEM file with the certificate and its chain, tls_key the private key that belongs to it"
        raise ConfigError([ConfigProblem(str(config.tls_cert), "http.tls_cert", problem_text, hint)]) from None
    return context
