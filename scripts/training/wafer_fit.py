"""The training loop of wafer_pattern: seeded, bounded by epochs or by minutes, on one CPU thread."""

from __future__ import annotations

import copy
import math
import time

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
EPOCHS = 60
PEAK_RATE = 3e-3
DECAY = 0.03
SMOOTHING = 0.05
AVERAGING = 0.998


def fit_network(fit: Maps, check: Maps, minutes: float | None) -> tuple[nn.Module, float]:
    """The averaged network after the whole schedule, and how many epochs were run."""
    rng = np.random.default_rng(SEED)
    net = WaferNet(len(fit.classes)).to(memory_format=torch.channels_last)
    mean_net = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=DECAY)
    counts = np.bincount(fit.labels, minlength=len(fit.classes))
    chance = (1.0 / np.sqrt(counts))[fit.labels]
    chance /= chance.sum()
    drawn_prior = torch.tensor(np.bincount(fit.labels, weights=chance, minlength=len(counts)), dtype=torch.float32).log()
    steps = EPOCHS * EPOCH_MAPS // BATCH
    bar = Progress("train wafer_pattern", steps)
    began, step, gone, epoch_loss = time.monotonic(), 0, 0.0, 0.0
    per_epoch = EPOCH_MAPS // BATCH
    while gone < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / per_epoch) * (0.5 + 0.5 * math.cos(math.pi * gone))
        rows = rng.choice(len(fit.labels), BATCH, p=chance)
        x = turned(torch.from_numpy(fit.cells[rows]).float().div_(4.0), rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x)
        # the draw is not even over the classes; adding its prior makes the scores those of an even one
        loss = functional.cross_entropy(logits.float() + drawn_prior, torch.from_numpy(fit.labels[rows]), label_smoothing=SMOOTHING)
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
    return mean_net, round(step / per_epoch, 1)


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


def check_network(net: nn.Module, check: Maps, views: int) -> dict[str, object]:
    """The report on `check`, the logits averaged over `views` turned copies, in float32."""
    predicted: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(check.labels), 256):
            x = torch.from_numpy(check.cells[start : start + 256]).float().div_(4.0)
            predicted += sum(net(view) for view in turned_views(x, views)).argmax(dim=1).tolist()
    return classification_report(check.labels.tolist(), predicted, check.classes)
