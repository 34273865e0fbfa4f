"""What a model's outputs say of one page: defects in page pixels, and the raw score of each class. Pure.

- classification: every class but the background, with at least the rule set's `min_confidence`, is a defect of the whole image
  (of its tile, where the page was cut into tiles)
- detection: each box with at least `min_confidence`, back on the page, clipped to it, tiles merged
- segmentation: connected regions of a class's heat-map at or above `min_confidence`; the confidence is the region's peak
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.config import Rules
from edged.nouns import Defect, Frame, Geometry, ModelContract, ModelOutputs
from edged.verdict.geometry import Box, clip, rel_um, shown, size_um
from edged.verdict.merging import Finding, merge

EDGE_PX = 2.0
"""A box this close (in model input pixels) to its tile's inner edge is taken to be cut by it."""


def find_defects(
    contract: ModelContract,
    outputs: ModelOutputs,
    rules: Rules,
    *,
    width: int,
    height: int,
    frame: Frame | None = None,
    floor: float | None = None,
) -> tuple[Defect, ...]:
    """Defects of at least `floor` (default `rules.min_confidence`), the most confident first. `width`, `height`: of the page in px."""
    page = (0.0, 0.0, float(width), float(height))
    floor = rules.min_confidence if floor is None else floor
    if contract.kind == "classification" and len(outputs.tiles) == 1:
        found: Sequence[Defect] = _whole_image(contract, page_scores(contract, outputs), rules, floor)
    else:
        reader = {"classification": _labelled_tiles, "detection": _boxes, "segmentation": _regions}[contract.kind]
        findings = reader(contract, outputs, floor, page)
        if len(outputs.tiles) > 1 and contract.kind != "classification":
            findings = merge(findings, rules.merge_iou)
        found = [_defect(finding, contract, rules, frame, width, height) for finding in findings]
    return tuple(sorted(found, key=lambda d: (-d.confidence, d.name, d.box_px or ())))


def golden_defects(contract: ModelContract, outputs: ModelOutputs) -> tuple[Defect, ...]:
    """Defects by the default rules, on a page as large as its geometries show: for comparing a model with its golden images."""
    parts = [shown(geometry) for geometry in outputs.geometries]
    width, height = max(x + w for x, _, w, _ in parts), max(y + h for _, y, _, h in parts)
    return find_defects(contract, outputs, Rules(), width=round(width), height=round(height))


def page_scores(contract: ModelContract, outputs: ModelOutputs) -> dict[str, float]:
    """Class -> 0..1 for the page: the best of all tiles (for the background of a classification the least)."""
    best = np.zeros(len(contract.classes))
    if contract.kind == "classification":
        tiles = np.stack([tile[contract.outputs["scores"]] for tile in outputs.tiles])
        best = tiles.max(axis=0)
        if contract.background is not None:
            column = contract.classes.index(contract.background)
            best[column] = tiles[:, column].min()
    elif contract.kind == "detection":
        for tile in outputs.tiles:
            scores, labels = tile[contract.outputs["scores"]], tile[contract.outputs["labels"]]
            used = scores > 0
            np.maximum.at(best, labels[used], scores[used])
    else:
        for tile, geometry in zip(outputs.tiles, outputs.geometries, strict=True):
            _, _, shows = _valid(tile[contract.outputs["heatmap"]], geometry)
            best = np.maximum(best, shows.max(axis=(1, 2), initial=0.0))
    return {name: _rounded(score) for name, score in zip(contract.classes, best.tolist(), strict=True)}


def _whole_image(contract: ModelContract, scores: Mapping[str, float], rules: Rules, floor: float) -> list[Defect]:
    label = f"{contract.name}:{contract.version}"
    return [
        _coded(Defect(name, score, model=label), rules) for name, score in scores.items() if name != contract.background and score >= floor
    ]


def _labelled_tiles(contract: ModelContract, outputs: ModelOutputs, floor: float, page: Box) -> list[Finding]:
    found = []
    for n, (tile, geometry) in enumerate(zip(outputs.tiles, outputs.geometries, strict=True)):
        box = clip(shown(geometry), page)
        for name, value in zip(contract.classes, tile[contract.outputs["scores"]].tolist(), strict=True):
            if box is not None and name != contract.background and _rounded(value) >= floor:
                found.append(Finding(name, _rounded(value), box, box[2] * box[3], n))
    return found


def _boxes(contract: ModelContract, outputs: ModelOutputs, floor: float, page: Box) -> list[Finding]:
    found = []
    for n, (tile, geometry) in enumerate(zip(outputs.tiles, outputs.geometries, strict=True)):
        scores = tile[contract.outputs["scores"]]
        kept = np.flatnonzero(scores >= floor - 1e-4)
        if not kept.size:
            continue
        boxes = tile[contract.outputs["boxes"]][kept].astype(np.float64)
        boxes *= (geometry.scale_x, geometry.scale_y, geometry.scale_x, geometry.scale_y)
        boxes[:, 0] += geometry.offset_x
        boxes[:, 1] += geometry.offset_y
        within = clip(shown(geometry), page)
        labels = tile[contract.outputs["labels"]][kept].tolist()
        for (x, y, w, h), score, label in zip(boxes.tolist(), scores[kept].tolist(), labels, strict=True):
            name, confidence = contract.classes[label], _rounded(score)
            box = clip((x, y, w, h), within) if within is not None else None
            if box is not None and name != contract.background and confidence >= floor:
                found.append(Finding(name, confidence, box, box[2] * box[3], n, _is_cut(box, geometry, page)))
    return found


def _regions(contract: ModelContract, outputs: ModelOutputs, floor: float, page: Box) -> list[Finding]:
    found = []
    for n, (tile, geometry) in enumerate(zip(outputs.tiles, outputs.geometries, strict=True)):
        left, top, maps = _valid(tile[contract.outputs["heatmap"]], geometry)
        pixel = abs(geometry.scale_x * geometry.scale_y)
        for name, heat in zip(contract.classes, maps, strict=True):
            if name == contract.background:
                continue
            hot = (heat >= floor).astype(np.uint8)
            count, marks, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
            for mark in range(1, count):
                x, y, w, h, area = (int(value) for value in stats[mark])
                peak = float(heat[y : y + h, x : x + w][marks[y : y + h, x : x + w] == mark].max())
                on_page = (
                    (x + left) * geometry.scale_x + geometry.offset_x,
                    (y + top) * geometry.scale_y + geometry.offset_y,
                    w * geometry.scale_x,
                    h * geometry.scale_y,
                )
                box = clip(on_page, page)
                if box is not None:
                    found.append(Finding(name, _rounded(peak), box, area * pixel, n, _is_cut(box, geometry, page)))
    return found


def _valid(heatmap: NDArray[Any], geometry: Geometry) -> tuple[int, int, NDArray[Any]]:
    """Left, top and the part of the map that shows the image, not the padding."""
    x, y, w, h = geometry.valid
    left, top = max(0, round(x)), max(0, round(y))
    return left, top, heatmap[:, top : max(top, round(y + h)), left : max(left, round(x + w))]


def _is_cut(box: Box, geometry: Geometry, page: Box) -> bool:
    """The box reaches an edge of its tile that is no edge of the page."""
    if geometry.tiles == 1:
        return False
    x, y, w, h = shown(geometry)
    near_x, near_y = EDGE_PX * geometry.scale_x, EDGE_PX * geometry.scale_y
    return (
        (box[0] - x <= near_x < x)
        or (box[1] - y <= near_y < y)
        or (x + w - (box[0] + box[2]) <= near_x and x + w < page[2] - near_x)
        or (y + h - (box[1] + box[3]) <= near_y and y + h < page[3] - near_y)
    )


def _defect(finding: Finding, contract: ModelContract, rules: Rules, frame: Frame | None, width: int, height: int) -> Defect:
    x, y, w, h = (round(value, 2) for value in finding.box)
    box = (x, y, w, h)
    defect = Defect(
        name=finding.label,
        confidence=finding.confidence,
        box_px=box,
        area_px=round(finding.area, 1),
        rel_um=rel_um(box, frame, width, height),
        size_um=size_um(box, frame),
        model=f"{contract.name}:{contract.version}",
    )
    return _coded(defect, rules)


def _coded(defect: Defect, rules: Rules) -> Defect:
    """With the numbers that the MES knows the class by."""
    code = rules.codes.get(defect.name)
    return replace(defect, class_no=code.class_no, rough_bin=code.rough_bin, fine_bin=code.fine_bin) if code else defect


def _rounded(score: float) -> float:
    """As it stands in the message: a rule must decide on the number that people see."""
    return min(1.0, max(0.0, round(score, 4)))
