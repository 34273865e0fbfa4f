"""Triton over gRPC: one channel for each endpoint, prebuilt request bytes, a deadline on every call.

Nothing here cancels a call: who no longer waits for an answer lets the call run on (cancelled calls in storms have crashed servers,
and a call that is still running may still read shared memory).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

LOOK_DEADLINE_S = 3.0
SERVICE = "/inference.GRPCInferenceService/"
FLOOR_BYTES = 4 * 1024 * 1024
RECONNECT_MS = 1000

# In these cases nobody knows whether the server still works on the request.
_UNANSWERED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
}
# ... unless the words are Triton's own: gRPC gives no other sign of who said UNAVAILABLE.
_TRITONS_WORDS = ("request timeout expired", "exceeds maximum queue size", "ready state", "server is not ready", "no available versions")


class CallFailed(Exception):  # noqa: N818 - it names what happened
    """A call without a good answer.

    `answered`: the server itself refused, so it is done with the request. `sent`: it may have reached the server. `alone`: meanwhile we
    had this server infer and load nothing else.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.alone = False
        self.message = message.strip().partition("\n")[0].removeprefix("[request id: <id_unknown>] ")
        low = message.lower()
        reset = code is grpc.StatusCode.INTERNAL and "rst_stream" in low
        self.answered = (code not in _UNANSWERED and not reset) or any(words in low for words in _TRITONS_WORDS)
        self.sent = "failed to connect" not in low

    @property
    def busy(self) -> bool:
        """Triton has no room for the request: nothing is wrong with it, nor with the model."""
        low = self.message.lower()
        full = "exceeds maximum queue size" in low or "request timeout expired" in low
        return full or self.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    @property
    def died(self) -> bool:
        """The server's process went while it had the request. One that freezes, or whose network is cut, only falls silent."""
        low = self.message.lower()
        gone = any(words in low for words in ("socket closed", "connection reset", "broken pipe"))
        return self.sent and not self.answered and gone

    @property
    def unknown_model(self) -> bool:
        low = self.message.lower()
        return "unknown model" in low or "no available versions" in low or "not at ready state" in low

    @property
    def unknown_region(self) -> bool:
        return self.code is grpc.StatusCode.NOT_FOUND and "shared memory region" in self.message.lower()


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output as Triton serves it; `shape` as in its metadata, with the batch axis if the model batches."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """What Triton says of a loaded model."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """`inferences`: images judged; `executions`: runs of the model, fewer where requests were batched. Since the model was loaded."""

    inferences: int
    executions: int


class TritonClient:
    """Use inside a running event loop; `close` when done. Every method raises CallFailed."""

    def __init__(self, address: str, largest_message: int, reconnect_ms: int = RECONNECT_MS) -> None:
        limit = max(FLOOR_BYTES, largest_message)
        options = [
            ("grpc.max_send_message_length", limit),
            ("grpc.max_receive_message_length", limit),
            # A dead or frozen server shows within 8 s. The look at the server every two seconds keeps it from calling these pings abuse.
            ("grpc.keepalive_time_ms", 5000),
            ("grpc.keepalive_timeout_ms", 3000),
            ("grpc.http2.ping_timeout_ms", 3000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 2000),
            ("grpc.max_reconnect_backoff_ms", reconnect_ms),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),  # a proxy in the environment must not see a loopback address
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.limit = limit
        self._closed = False
        self._begun = self._at_work = 0  # what may end the server: requests and loads
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._methods: dict[str, Any] = {}
        self._infer = self._channel.unary_unary(
            f"{SERVICE}ModelInfer", request_serializer=None, response_deserializer=pb.ModelInferResponse.FromString
        )

    async def connected(self) -> None:
        """Returns once a broken connection stands again; never where it stands already."""
        if self._channel.get_state() is grpc.ChannelConnectivity.READY:
            await asyncio.Event().wait()
        await self._channel.channel_ready()

    async def live(self) -> bool:
        """The server answers and is ready to take requests (single models may not be)."""
        return bool((await self._call("ServerLive", pb.ServerLiveRequest())).live)

    async def version(self) -> str:
        return str((await self._call("ServerMetadata", pb.ServerMetadataRequest())).version)

    async def ready(self, name: str) -> bool:
        return bool((await self._call("ModelReady", pb.ModelReadyRequest(name=name))).ready)

    async def load(self, name: str, deadline_s: float) -> None:
        """Loads it from the server's repository, anew if its files changed since."""
        with self._work():
            await self._call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name), deadline_s)

    async def unload(self, name: str, deadline_s: float) -> None:
        with self._work():
            await self._call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=name), deadline_s)

    async def served(self, name: str) -> Served:
        """What the loaded model takes and gives."""
        metadata = await self._call("ModelMetadata", pb.ModelMetadataRequest(name=name))
        config = await self._call("ModelConfig", pb.ModelConfigRequest(name=name))
        inputs, outputs = ({p.name: Port(p.datatype, tuple(p.shape)) for p in ports} for ports in (metadata.inputs, metadata.outputs))
        return Served(inputs, outputs, int(config.config.max_batch_size))

    async def statistics(self, name: str) -> Statistics:
        answer = await self._call("ModelStatistics", pb.ModelStatisticsRequest(name=name))
        models = answer.model_stats
        return Statistics(sum(int(m.inference_count) for m in models), sum(int(m.execution_count) for m in models))

    async def regions(self) -> Mapping[str, str]:
        """Registered system shared memory: region name -> key below /dev/shm."""
        answer = await self._call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())
        return {name: str(region.key) for name, region in answer.regions.items()}

    async def register(self, region: str, key: str, nbytes: int) -> None:
        request = pb.SystemSharedMemoryRegisterRequest(name=region, key=key, offset=0, byte_size=nbytes)
        await self._call("SystemSharedMemoryRegister", request)

    async def unregister(self, region: str) -> None:
        """Refused while a request still uses it; no error if it is not there."""
        await self._call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=region))

    async def infer(self, request: bytes, deadline_s: float) -> Any:
        """`request`: a serialized ModelInferRequest. Returns the ModelInferResponse."""
        try:
            with self._work() as alone:
                try:
                    return await self._infer(request, timeout=deadline_s)
                except grpc.aio.AioRpcError as error:
                    failure = CallFailed(error.code(), error.details() or error.code().name)
                    failure.alone = alone()
                    raise failure from None
        except asyncio.CancelledError:
            if self._closed:  # the channel took its calls with it; nobody cancelled the one who waits
                raise CallFailed(grpc.StatusCode.CANCELLED, "the connection was closed") from None
            raise

    @contextmanager
    def _work(self) -> Iterator[Callable[[], bool]]:
        """Yields a function that says whether this has been the only work so far."""
        self._begun += 1
        begun, first = self._begun, not self._at_work
        self._at_work += 1
        try:
            yield lambda: first and self._begun == begun
        finally:
            self._at_work -= 1

    async def close(self) -> None:
        self._closed = True
        await self._channel.close(grace=None)

    async def _call(self, method: str, request: Any, deadline_s: float = LOOK_DEADLINE_S) -> Any:
        if (call := self._methods.get(method)) is None:
            answer = getattr(pb, type(request).__name__.removesuffix("Request") + "Response")
            call = self._channel.unary_unary(
                f"{SERVICE}{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
            )
            self._methods[method] = call
        try:
            return await call(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(error.code(), error.details() or error.code().name) from None
