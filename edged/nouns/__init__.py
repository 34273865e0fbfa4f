"""The nouns that travel from room to room: frozen, slotted, without behaviour.

Paths below a camera's folder travel as the bytes the file system holds: a file name need not be UTF-8.
`display_name` is the one way to show one.
Wall-clock times are aware UTC datetimes; durations come from a monotonic clock.
"""

from __future__ import annotations

from edged.nouns.camera import Pause, Standing
from edged.nouns.health import Board, HealthItem, HealthStatus
from edged.nouns.image import Geometry, ImageFacts, InputPlan, PagePart, Quality, Tensor
from edged.nouns.landing import Again, Die, Frame, Identity, Landing, LateSidecar, Material
from edged.nouns.message import Change, Composer, Envelope, Numbering, OutboxRow, Recorded, Recording
from edged.nouns.names import display_name, utc_text
from edged.nouns.verdict import LOCAL, Defect, ModelContract, ModelFacts, ModelOutputs, ModelScores, PageResult, Verdict, VerdictKind

__all__ = [
    "LOCAL",
    "Again",
    "Board",
    "Change",
    "Composer",
    "Defect",
    "Die",
    "Envelope",
    "Frame",
    "Geometry",
    "HealthItem",
    "HealthStatus",
    "Identity",
    "ImageFacts",
    "InputPlan",
    "Landing",
    "LateSidecar",
    "Material",
    "ModelContract",
    "ModelFacts",
    "ModelOutputs",
    "ModelScores",
    "Numbering",
    "OutboxRow",
    "PagePart",
    "PageResult",
    "Pause",
    "Quality",
    "Recorded",
    "Recording",
    "Standing",
    "Tensor",
    "Verdict",
    "VerdictKind",
    "display_name",
    "utc_text",
]
