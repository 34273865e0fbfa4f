"""[triton], [models], [mqtt], [http]: the peers and the doors."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator

from edged.config.station import Section

SEEDS = (
    Path(__file__).parents[2] / "model_repository",  # a source tree
    Path(sys.prefix) / "share" / "edged" / "model_repository",  # an installed wheel
    Path("/usr/share/edged/model_repository"),
)


class SharedMemory(StrEnum):
    """`auto`: shared memory where the endpoint is on loopback and can map the ring, else bytes with one WARN."""

    AUTO = "auto"
    OFF = "off"


class Triton(Section):
    endpoints: tuple[str, ...] = Field(("127.0.0.1:8001",), min_length=1)
    deadline_s: float = Field(10.0, gt=0)
    load_deadline_s: float = Field(120.0, gt=0)
    shared_memory: SharedMemory = SharedMemory.AUTO


class Models(Section):
    """`repository` is the seed; the live repository that Triton serves is `{state_dir}/models`."""

    repository: Path | None = None
    backend: str = Field("python", pattern="^(python|onnxruntime|tensorrt)$")
    allow_python: bool = False

    def located(self) -> Models:
        """The same, with `repository` set: as configured, else where edged was installed with one."""
        if self.repository is not None:
            return self
        found = next((place for place in SEEDS if place.is_dir()), SEEDS[-1])
        return self.model_copy(update={"repository": found})


class Protocol(StrEnum):
    V5 = "5"
    V311 = "3.1.1"


class Confirm(StrEnum):
    """When a row counts as delivered: the broker's accepting PUBACK, or the MES's own `ack` message."""

    BROKER = "broker"
    MES = "mes"


class NoSubscriber(StrEnum):
    """PUBACK 0x10, nobody subscribes: hold the topic's rows (default), or accept."""

    HOLD = "hold"
    ACCEPT = "accept"


class Mqtt(Section):
    host: str = "127.0.0.1"
    port: int = Field(1883, ge=1, le=65535)
    protocol: Protocol = Protocol.V5
    confirm: Confirm = Confirm.BROKER
    confirm_kinds: tuple[str, ...] = ("result", "wafer")
    ack_timeout_s: float = Field(60.0, gt=0)
    no_subscriber: NoSubscriber = NoSubscriber.HOLD
    prefix: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")
    username: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    keepalive_s: int = Field(15, ge=5)
    window: int = Field(200, ge=1, le=65535)
    drain_max_per_s: float | None = Field(None, gt=0)
    will_delay_s: int = Field(15, ge=0)

    @model_validator(mode="after")
    def _tls_pairs(self) -> Mqtt:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        if self.cert is not None and self.ca is None:
            raise ValueError("a client certificate needs ca, the authority of the broker's own certificate")
        return self


class Http(Section):
    """Beyond loopback TLS is required, and every GET but /livez needs a token."""

    bind: str = Field("127.0.0.1:9180", pattern=r"^(\[[0-9a-fA-F:]+\]|[^:]+):\d{1,5}$")
    public_url: str | None = Field(None, pattern="^https://")
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tokens_file: Path | None = None

    @model_validator(mode="after")
    def _tls_beyond_loopback(self) -> Http:
        host = self.bind.rsplit(":", 1)[0].strip("[]")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if host not in ("127.0.0.1", "::1", "localhost") and (self.tls_cert is None or self.tokens_file is None):
            raise ValueError(f"bind = {self.bind} is reachable from the network: it needs tls_cert, tls_key and tokens_file")
        return self
