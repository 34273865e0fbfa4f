"""One question to one Triton, for `edged doctor`: no loop, no state."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2 as pb

from edged.inference.client import LOOK_DEADLINE_S, SERVICE


@dataclass(frozen=True, slots=True)
class Probe:
    """`says`: the server's name and version, or why it did not answer."""

    alive: bool
    says: str


def probe(address: str, deadline_s: float = LOOK_DEADLINE_S) -> Probe:
    """Blocks for at most `deadline_s`."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(
            f"{SERVICE}ServerMetadata",
            request_serializer=pb.ServerMetadataRequest.SerializeToString,
            response_deserializer=pb.ServerMetadataResponse.FromString,
        )
        try:
            said = ask(pb.ServerMetadataRequest(), timeout=deadline_s)
        except grpc.RpcError as error:
            return Probe(False, str(error.details() or error.code().name))
    return Probe(True, f"{said.name} {said.version}")
