"""The training of wafer_pattern: seeded, bounded by epochs or by minutes, on one CPU thread.

Two runs. People's labels of wafer maps disagree (Loc against None, Scratch, Edge-Loc), so a first, short run only makes a
teacher; the second starts anew and learns the mean of the label and the teacher's opinion.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from classification_metrics import classification_report
from progress import Progress
from torch import Tensor, nn
from torch.nn import functional
from wafer_maps import Maps
from wafer_net import WaferNet, turned_views

SEED = 811
BATCH = 128
EPOCH_MAPS = 16_384
TEACHER_EPOCHS = 8
EPOCHS = 25
# asking a teacher about every map takes one to two minutes, which a short run does better without
TEACHER_FROM_MINUTES = 10.0
PEAK_RATE = 3e-3
DECAY = 0.03
SMOOTHING = 0.05
TRUST_IN_LABELS = 0.5
AVERAGING = 0.998
# a class with fewer maps than this is taken to be rarer than the others where the model will work, too
COMMON_MAPS = 600


@dataclass(frozen=True)
class Draw:
    """How maps are drawn. chance float64 [n] sums to 1; shift float32 [classes]: log of the drawn prior over the served one."""

    chance: np.ndarray
    shift: Tensor

    @classmethod
    def of(cls, fit: Maps) -> Draw:
        counts = np.bincount(fit.labels, minlength=len(fit.classes)).astype(float)
        chance = (1.0 / np.sqrt(counts))[fit.labels]
        chance /= chance.sum()
        drawn = np.bincount(fit.labels, weights=chance, minlength=len(counts))
        served = np.sqrt(np.minimum(counts, COMMON_MAPS))
        return cls(chance, torch.tensor(np.log(drawn / (served / served.sum())), dtype=torch.float32))


def fit_network(fit: Maps, check: Maps, minutes: float | None) -> tuple[nn.Module, float]:
    """The averaged network at the end, and how many epochs all runs took together. `minutes` bounds everything in here."""
    began = time.monotonic()
    draw = Draw.of(fit)
    labels = functional.one_hot(torch.from_numpy(fit.labels), len(fit.classes)).float()
    targets = labels * (1 - SMOOTHING) + SMOOTHING / len(fit.classes)
    if minutes is not None and minutes < TEACHER_FROM_MINUTES:
        return one_run("alone", fit, check, targets, draw, EPOCHS, minutes, SEED)
    share = TEACHER_EPOCHS / (TEACHER_EPOCHS + EPOCHS)
    teacher, first = one_run("teacher", fit, check, targets, draw, TEACHER_EPOCHS, minutes and minutes * share, SEED)
    opinion = torch.softmax(logits_of(teacher, fit, views=2) + draw.shift, dim=1)
    targets = TRUST_IN_LABELS * labels + (1 - TRUST_IN_LABELS) * opinion
    left = None if minutes is None else minutes - (time.monotonic() - began) / 60
    net, second = one_run("student", fit, check, targets, draw, EPOCHS, left, SEED + 1)
    return net, round(first + second, 1)


def one_run(
    title: str, fit: Maps, check: Maps, targets: Tensor, draw: Draw, epochs: int, minutes: float | None, seed: int
) -> tuple[nn.Module, float]:
    """One schedule from a fresh network to the average of its weights; `targets` float32 [n, classes]. Returns it and the epochs run."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = WaferNet(len(fit.classes)).to(memory_format=torch.channels_last)
    mean_net = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=DECAY)
    per_epoch = EPOCH_MAPS // BATCH
    steps = epochs * per_epoch
    bar = Progress(f"wafer_pattern {title}", steps)
    began, step, gone, epoch_loss = time.monotonic(), 0, 0.0, 0.0
    while gone < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / per_epoch) * (0.5 + 0.5 * math.cos(math.pi * gone))
        rows = rng.choice(len(fit.labels), BATCH, p=draw.chance)
        x = turned(torch.from_numpy(fit.cells[rows]).float().div_(4.0), rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x)
        # the draw has another prior than the served scores: adding the difference here keeps it out of the network
        loss = functional.cross_entropy(logits.float() + draw.shift, targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        average_into(mean_net, net, min(AVERAGING, step / (step + 10)))
        epoch_loss += loss.item() / per_epoch
        gone = step / steps if minutes is None else max(step / steps, (time.monotonic() - began) / (minutes * 60))
        if step % per_epoch == 0:
            figures = check_network(mean_net, check, views=1)
            bar.note(f"epoch {step // per_epoch} loss {epoch_loss:.3f} own-split macro-F1 {figures['macro_f1']:.4f}")
            epoch_loss = 0.0
        bar.show(int(gone * steps))
    bar.end(f"{step} steps")
    return mean_net, step / per_epoch


def turned(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Each map mirrored and turned: half of them by quarters (exact), half by any angle with a slight change of scale."""
    count = x.shape[0]
    free = rng.random(count) < 0.5
    angle = np.where(free, rng.uniform(0, 2 * np.pi, count), rng.integers(0, 4, count) * (np.pi / 2))
    scale = np.where(free, rng.uniform(0.94, 1.06, count), 1.0)
    flip = rng.choice([-1.0, 1.0], count)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    zero = np.zeros(count)
    theta = np.stack([np.stack([cos * flip, -sin, zero], 1), np.stack([sin * flip, cos, zero], 1)], 1)
    grid = functional.affine_grid(torch.from_numpy(theta).float(), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", align_corners=False)


def average_into(mean_net: nn.Module, net: nn.Module, keep: float) -> None:
    """mean_net <- keep * mean_net + (1 - keep) * net, over weights and the running statistics alike."""
    with torch.no_grad():
        for mean, value in zip(mean_net.state_dict().values(), net.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1.0 - keep)
            else:
                mean.copy_(value)


def logits_of(net: nn.Module, maps: Maps, views: int) -> Tensor:
    """float32 [n, classes], averaged over `views` turned copies."""
    found: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(maps.labels), 256):
            x = torch.from_numpy(maps.cells[start : start + 256]).float().div_(4.0)
            found.append(torch.stack([net(view) for view in turned_views(x, views)]).mean(dim=0))
    return torch.cat(found).clone()


def check_network(net: nn.Module, check: Maps, views: int) -> dict[str, object]:
    """The report on `check`, in float32."""
    predicted = logits_of(net, check, views).argmax(dim=1).tolist()
    return classification_report(check.labels.tolist(), predicted, check.classes)
