"""Fits the detector: focal loss on the heat maps, GIoU on the boxes, a running mean of the weights as the result."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from die_net import STRIDE, DieNet, normalised, start_from
from die_samples import Sample, Source
from progress import Progress

SEED = 20260
STEPS = 10000
RATE = 2.5e-3
KEEP = 0.998
WARM_UP = 200


@dataclass(frozen=True)
class Batch:
    """pair uint8 [n, 2, s, s]; heat [n, classes, s/4, s/4] 0..1; seen [n, 1, ...], 0 where to look away; boxes [n, 4, ...] x1, y1, x2, y2;
    weight [n, 1, ...] 0..1: how much the box counts there."""

    pair: torch.Tensor
    heat: torch.Tensor
    seen: torch.Tensor
    boxes: torch.Tensor
    weight: torch.Tensor


def fit(source: Source, steps: int, minutes: float | None, start: Path | None = None) -> tuple[DieNet, int]:
    """The trained network (running mean of its weights, evaluation mode) and the number of steps made; begins with the weights in `start`.

    `minutes` bounds the loop by the wall clock: the learning rate then falls with the time spent, however many steps that is.
    """
    torch.manual_seed(SEED)
    net = DieNet(len(source.classes))
    if start is not None:
        start_from(net, source.classes, start)
    net = net.to(memory_format=torch.channels_last).train()
    mean = copy.deepcopy(net).eval()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim == 1]
    optimiser = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], lr=RATE)
    bar, began, shown, step = Progress("train die_defect", 1000), time.monotonic(), 0.0, 0
    for step, batch in enumerate(_ahead(source), 1):
        spent = step / steps if minutes is None else (time.monotonic() - began) / (60 * minutes)
        if spent >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, step / WARM_UP) * (0.01 + 0.99 * (1 + math.cos(math.pi * spent)) / 2)
        loss = _step(net, optimiser, batch)
        _follow(mean, net, min(KEEP, 1 - 1 / (step + 1)))
        shown = loss if step == 1 else 0.98 * shown + 0.02 * loss
        bar.show(int(1000 * spent), f"step {step} loss {shown:.3f}")
        if step % 500 == 0:
            bar.note(f"step {step}, loss {shown:.3f}, {spent:.0%}")
    bar.end(f"{step} steps, loss {shown:.3f}")
    return mean.to(memory_format=torch.contiguous_format), step


def _step(net: DieNet, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits, boxes = net(normalised(batch.pair).contiguous(memory_format=torch.channels_last))
    loss = heat_loss(logits.float(), batch) + box_loss(boxes.float(), batch)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimiser.step()
    return float(loss.detach())


def heat_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """CenterNet's focal loss: cells near a centre count less as negatives; per defect."""
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    centre = (batch.heat > 0.999).float()
    hit = centre * (1 - p) ** 2 * torch.log(p)
    miss = (1 - centre) * (1 - batch.heat) ** 4 * p**2 * torch.log(1 - p)
    return -((hit + miss) * batch.seen).sum() / centre.sum().clamp(min=1)


def box_loss(boxes: torch.Tensor, batch: Batch) -> torch.Tensor:
    """1 - GIoU, plus a little of the plain distance so that far boxes are drawn in; weighted by closeness to the centre."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    true_low, true_high = batch.boxes[:, :2], batch.boxes[:, 2:]
    inter = (torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp(min=0).prod(dim=1)
    total = (high - low).prod(dim=1) + (true_high - true_low).prod(dim=1) - inter
    hull = (torch.maximum(high, true_high) - torch.minimum(low, true_low)).prod(dim=1).clamp(min=1e-6)
    giou = inter / total.clamp(min=1e-6) - (hull - total) / hull
    size = (true_high - true_low).clamp(min=1)
    far = (
        F.smooth_l1_loss(low / size, true_low / size, reduction="none") + F.smooth_l1_loss(high / size, true_high / size, reduction="none")
    ).sum(1)
    weight = batch.weight[:, 0]
    return ((1.5 * (1 - giou) + 0.5 * far) * weight).sum() / weight.sum().clamp(min=1)


def _follow(mean: DieNet, net: DieNet, keep: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast.to(slow.dtype), 1 - keep)
            else:
                slow.copy_(fast)


def _ahead(source: Source) -> Iterator[Batch]:
    """Batches, made in a thread a few steps ahead; the same ones in the same order every time."""
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(_batch, source, step) for step in range(4))
        try:
            for step in itertools.count(4):
                yield coming.popleft().result()
                coming.append(pool.submit(_batch, source, step))
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(source: Source, step: int) -> Batch:
    count, size = source.shapes[step % len(source.shapes)]
    return collate([source.crop(16 * step + n, size) for n in range(count)], len(source.classes))


def collate(samples: list[Sample], classes: int) -> Batch:
    cells = samples[0].pair.shape[1] // STRIDE
    heat = np.zeros((len(samples), classes, cells, cells), np.float32)
    seen = np.ones((len(samples), 1, cells, cells), np.float32)
    boxes = np.zeros((len(samples), 4, cells, cells), np.float32)
    boxes[:, 2:] = 1
    weight = np.zeros((len(samples), 1, cells, cells), np.float32)
    for row, sample in enumerate(samples):
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            if label < 0:
                x1, y1, x2, y2 = (int(v / STRIDE) for v in box)
                seen[row, :, y1 : y2 + 1, x1 : x2 + 1] = 0
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            if label >= 0:
                _mark(box, heat[row, label], seen[row, 0], boxes[row], weight[row, 0])
    return Batch(*(torch.from_numpy(a) for a in (np.stack([s.pair for s in samples]), heat, seen, boxes, weight)))


def _mark(box: np.ndarray, heat: np.ndarray, seen: np.ndarray, boxes: np.ndarray, weight: np.ndarray) -> None:
    """Draws one defect: 1 in the cell of its centre, falling off with its size; its box in the cells around."""
    cells = heat.shape[0]
    cx, cy = (box[0] + box[2]) / 2 / STRIDE - 0.5, (box[1] + box[3]) / 2 / STRIDE - 0.5
    column, line = (int(np.clip(round(float(v)), 0, cells - 1)) for v in (cx, cy))
    wide, high = (box[2] - box[0]) / STRIDE, (box[3] - box[1]) / STRIDE
    along = np.arange(cells, dtype=np.float32)
    near_x = np.exp(-0.5 * ((along - column) / max(0.7, 0.1 * float(wide))) ** 2)
    near_y = np.exp(-0.5 * ((along - line) / max(0.7, 0.1 * float(high))) ** 2)
    spot = near_y[:, None] * near_x[None]
    np.maximum(heat, spot, out=heat)
    seen[line, column] = 1
    closer = spot > np.maximum(weight, 0.2)
    weight[closer] = spot[closer]
    boxes[:, closer] = box[:, None]
