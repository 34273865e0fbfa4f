"""Files prepared in this process: golden images and training data, which are our own. What cameras drop goes to the decoder processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edged.config import Decode
from edged.nouns import Geometry, InputPlan
from edged.vision.decode import decode
from edged.vision.headers import Limits, inspect
from edged.vision.prepare import prepare


def prepare_golden(path: Path, plans: Sequence[InputPlan], reference: Path | None) -> list[tuple[NDArray[Any], Geometry]]:
    """The first page's model inputs for `plans[0]`: (array C x H x W, geometry) for each tile. Raises FrameRejected, OSError."""
    plan = plans[0]
    colour = plan.preprocess.colour == "rgb"
    golden = None if reference is None else _page(reference, colour)
    return prepare(_page(path, colour), plan, golden)


def _page(path: Path, colour: bool) -> NDArray[Any]:
    data = path.read_bytes()
    decode_limits = Decode()
    limits = Limits(decode_limits.max_file_bytes, decode_limits.max_pixels, decode_limits.max_side_px, decode_limits.max_pages)
    return decode(data, inspect(data, limits), colour=colour)
