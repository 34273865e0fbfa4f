"""The configuration: frozen pydantic sections, one for each room; `load` reads files, drop-ins and environment."""

from __future__ import annotations

from edged.config.camera import (
    IDENTITY_FIELDS,
    After,
    Camera,
    Existing,
    FrameSection,
    IdentityKind,
    IdentitySource,
    WatchMode,
)
from edged.config.load import from_data, load
from edged.config.peers import Confirm, Http, Models, Mqtt, NoSubscriber, Protocol, SharedMemory, Triton
from edged.config.recipe import (
    Action,
    ClassCode,
    Combine,
    Preprocess,
    QualityLimits,
    Recipe,
    Reference,
    Rule,
    Rules,
    Zone,
)
from edged.config.root import Config
from edged.config.station import Decode, Gpu, GpuMode, Ledger, Log, LogFormat, LogLevel, Quarantine, Section, Segment, Station, WhenFull

__all__ = [
    "IDENTITY_FIELDS",
    "Action",
    "After",
    "Camera",
    "ClassCode",
    "Combine",
    "Config",
    "Confirm",
    "Decode",
    "Existing",
    "FrameSection",
    "Gpu",
    "GpuMode",
    "Http",
    "IdentityKind",
    "IdentitySource",
    "Ledger",
    "Log",
    "LogFormat",
    "LogLevel",
    "Models",
    "Mqtt",
    "NoSubscriber",
    "Preprocess",
    "Protocol",
    "QualityLimits",
    "Quarantine",
    "Recipe",
    "Reference",
    "Rule",
    "Rules",
    "Section",
    "Segment",
    "SharedMemory",
    "Station",
    "Triton",
    "WatchMode",
    "WhenFull",
    "Zone",
    "from_data",
    "load",
]
