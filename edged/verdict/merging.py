"""One defect seen by several tiles (or models) becomes one defect. Pure.

Two findings of one class belong together when they come from different sources and
- overlap by `merge_iou` (intersection over union), or
- one is cut by the edge of its tile and at least half of the smaller lies in the other, or
- both are cut and they overlap at all: each tile saw its part.
What belongs together, directly or through others, is one: the union of the boxes if a part was cut, else the most confident box;
always with the best confidence. The result does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.verdict.geometry import Box

CONTAINED = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """One box of one class on the page. `source`: the tile or model that saw it; `cut`: its tile's edge goes through it."""

    label: str
    confidence: float
    box: Box
    area: float
    source: int = 0
    cut: bool = False


def merge(findings: Sequence[Finding], merge_iou: float) -> list[Finding]:
    """The findings, each group that belongs together replaced by one."""
    return [join(group) for group in groups(findings, merge_iou)]


def groups(findings: Sequence[Finding], merge_iou: float) -> list[list[Finding]]:
    """The findings, put together as the rules above say."""
    # sorted by the left edge, a box can only meet those that begin before it ends
    order = sorted(findings, key=lambda f: (f.label, f.box[0], f.box[1], f.box[2], f.box[3], -f.confidence, f.source))
    parent = list(range(len(order)))

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for i, one in enumerate(order):
        right = one.box[0] + one.box[2]
        for j in range(i + 1, len(order)):
            other = order[j]
            if other.label != one.label or other.box[0] > right:
                break
            if one.source != other.source and _together(one, other, merge_iou):
                parent[root(j)] = root(i)
    found: dict[int, list[Finding]] = {}
    for n, finding in enumerate(order):
        found.setdefault(root(n), []).append(finding)
    return list(found.values())


def join(group: Sequence[Finding]) -> Finding:
    """One finding for the group: never less confident than its best."""
    best = max(group, key=lambda f: f.confidence)
    if len(group) == 1 or not any(f.cut for f in group):
        return best
    x0, y0 = min(f.box[0] for f in group), min(f.box[1] for f in group)
    x1, y1 = max(f.box[0] + f.box[2] for f in group), max(f.box[1] + f.box[3] for f in group)
    box = (x0, y0, x1 - x0, y1 - y0)
    # parts overlap by what both tiles show: their sum is the most it can be, and so is the box
    areas = [f.area for f in group]
    area = max(*areas, min(sum(areas), box[2] * box[3]))
    return Finding(best.label, best.confidence, box, area, best.source)


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0.0


def iou(a: Box, b: Box) -> float:
    shared = overlap(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared > 0 else 0.0


def _together(a: Finding, b: Finding, merge_iou: float) -> bool:
    shared = overlap(a.box, b.box)
    if shared <= 0:
        return False
    areas = a.box[2] * a.box[3], b.box[2] * b.box[3]
    if shared / (areas[0] + areas[1] - shared) >= merge_iou:
        return True
    if a.cut and b.cut:
        return True
    return (a.cut or b.cut) and shared >= CONTAINED * min(areas)
