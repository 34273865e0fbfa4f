"""[station], [decode], [ledger], [quarantine], [log], [gpu]: what belongs to the box."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Segment = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=64)]
"""One level of an MQTT topic or of the station's place in the plant."""


class Section(BaseModel):
    """Every section is frozen and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Station(Section):
    """Where this instance stands in the plant (ISA-95 levels) and where it keeps its state."""

    enterprise: Segment = "enterprise"
    site: Segment = "site"
    area: Segment = "area"
    tool: Segment = "tool"
    instance: Segment = "a"
    state_dir: Path = Path("/var/lib/edged")

    @property
    def source(self) -> str:
        """The CloudEvents source of every message of this instance."""
        return f"/{self.enterprise}/{self.site}/{self.area}/{self.tool}/edged/{self.instance}"


class Decode(Section):
    """The isolated decoder processes and what one image may cost them."""

    processes: int = Field(2, ge=1, le=64)
    slots: int = Field(64, ge=2, le=1024)
    max_file_bytes: int = Field(512 * 1024 * 1024, ge=1024)
    max_pixels: int = Field(200_000_000, ge=1)
    max_side_px: int = Field(65_500, ge=1)
    max_pages: int = Field(100, ge=1, le=10_000)
    memory_bytes: int = Field(2 * 1024**3, ge=256 * 1024**2)
    timeout_s: float = Field(30.0, gt=0)


class WhenFull(StrEnum):
    """Who suffers when the disk has no room for more. Undelivered results never do.

    `block`: the tool's folder, where images wait. `forget-delivered`: those who look at the past: the oldest delivered results go before
    their time, and only when none are left images wait.
    """

    BLOCK = "block"
    FORGET_DELIVERED = "forget-delivered"


class Ledger(Section):
    """How long results are kept. Undelivered rows are never pruned; nothing is judged when less than `min_free_bytes` is free."""

    retain_days: float = Field(30.0, gt=0)
    retain_rows: int = Field(5_000_000, ge=1)
    retain_bytes: int = Field(20 * 1024**3, ge=1024**2)
    min_free_bytes: int = Field(512 * 1024**2, ge=0)
    when_full: WhenFull = WhenFull.BLOCK


class Quarantine(Section):
    """How long copies of rejected images are kept; the oldest make room. What is not set does not limit."""

    retain_days: float | None = Field(None, gt=0)
    retain_files: int | None = Field(None, ge=1)
    retain_bytes: int | None = Field(2 * 1024**3, ge=0)


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Log(Section):
    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


class GpuMode(StrEnum):
    AUTO = "auto"
    OFF = "off"


class Gpu(Section):
    mode: GpuMode = GpuMode.AUTO
    poll_s: float = Field(5.0, ge=0.5)
