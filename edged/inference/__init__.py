"""The one room that speaks with Triton: model repository, connection, batching, golden images."""

from __future__ import annotations

from edged.inference.golden import FindDefects, PrepareGolden
from edged.inference.inference import Inference
from edged.inference.probe import Probe, probe
from edged.inference.rings import RingFacts
from edged.inference.slots import Release
from edged.inference.states import EndpointSnapshot, ModelSnapshot, ModelState

__all__ = [
    "EndpointSnapshot",
    "FindDefects",
    "Inference",
    "ModelSnapshot",
    "ModelState",
    "PrepareGolden",
    "Probe",
    "Release",
    "RingFacts",
    "probe",
]
