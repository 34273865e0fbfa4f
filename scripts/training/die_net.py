"""The detector of `die_defect`: image and golden reference in, one heat map per class and one box per cell out.

DieNet works on crops and whole images alike; ServedDetector adds what the package needs: normalisation, peaks, top-K, suppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STRIDE = 4
TOP_K = 100
OVERLAP = 0.5  # two boxes that overlap more than this are one defect
RARE = -4.0  # the heat maps start out saying "no defect" nearly everywhere


class _Conv(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
        )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(width, width), nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(self.first(x)))


class DieNet(nn.Module):
    """float [n, 3, h, w] (h, w multiples of 32) to logits [n, classes, h/4, w/4] and boxes [n, 4, h/4, w/4] as cx, cy, w, h in pixels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.at4 = nn.Sequential(_Conv(3, 16, 5, 2), _Conv(16, 24, 3, 2), _Residual(24))
        self.at8 = nn.Sequential(_Conv(24, 48, 3, 2), _Residual(48))
        self.at16 = nn.Sequential(_Conv(48, 80, 3, 2), _Residual(80))
        self.at32 = nn.Sequential(_Conv(80, 96, 3, 2), _Residual(96))
        self.up16, self.up8, self.up4 = _Conv(96, 80, 1), _Conv(80, 48, 1), _Conv(48, 24, 1)
        self.mix8 = _Conv(48, 48)
        self.head = nn.Sequential(_Conv(24, 32), nn.Conv2d(32, classes + 4, 1))
        self.classes = classes
        last = self.head[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[:classes], RARE)
        nn.init.constant_(last.bias[classes + 2 :], 2.0)  # boxes of about 30 px

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.at4(x)
        middle = self.at8(fine)
        coarse = self.at16(middle)
        coarse = coarse + _twice(self.up16(self.at32(coarse)))
        middle = self.mix8(middle + _twice(self.up8(coarse)))
        out = self.head(fine + _twice(self.up4(middle)))
        return out[:, : self.classes], self._boxes(out[:, self.classes :])

    def _boxes(self, raw: torch.Tensor) -> torch.Tensor:
        high, wide = raw.shape[2], raw.shape[3]
        rows = torch.arange(high, device=raw.device, dtype=raw.dtype).view(1, 1, high, 1).expand(1, 1, high, wide)
        columns = torch.arange(wide, device=raw.device, dtype=raw.dtype).view(1, 1, 1, wide).expand(1, 1, high, wide)
        centre = (torch.cat([columns, rows], 1) + 0.5 + raw[:, :2]) * STRIDE
        return torch.cat([centre, raw[:, 2:].clamp(-3, 5).exp() * STRIDE], 1)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def normalised(pair: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 2, h, w] to float [n, 3, h, w]: image, reference, how far they differ. A reference of zeros only is none: mid-gray."""
    image, reference = ((pair.float() - 128) / 64).split(1, dim=1)
    given = (pair[:, 1:].amax(dim=(2, 3), keepdim=True) > 0).float()
    return torch.cat([image, reference * given, (image - reference).abs() * given], 1)


def save_weights(net: DieNet, classes: Sequence[str], file: Path) -> None:
    """Half-precision weights, for starting another training from: a trained network's first layers know how to compare."""
    arrays = {name: value.numpy() for name, value in net.state_dict().items()}
    half = {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in arrays.items()}
    np.savez_compressed(file, classes=np.array(classes), **half)  # type: ignore[arg-type]


def start_from(net: DieNet, classes: Sequence[str], file: Path) -> None:
    """Takes over the weights of `save_weights`; the outputs of classes that the other network did not know stay as they are."""
    own = net.state_dict()
    with np.load(file) as stored:
        known = [str(name) for name in stored["classes"]]
        rows = [(classes.index(name), known.index(name)) for name in classes if name in known]
        rows += [(len(classes) + n, len(known) + n) for n in range(4)]
        for name, value in own.items():
            other = torch.from_numpy(stored[name]).to(value.dtype)
            if name.startswith("head.1."):
                for to, come in rows:
                    value[to] = other[come]
            else:
                value.copy_(other)
    net.load_state_dict(own)


class ServedDetector(nn.Module):
    """uint8 [n, 2, h, w] to boxes float [n, K, 4] (x, y, w, h px), scores [n, K] falling, 0 for unused rows, labels int32 [n, K].

    `threshold` is the raw score that comes out as 0.5, so that 0.5 is the right place to cut.
    """

    def __init__(self, net: DieNet, threshold: float, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size
        self.register_buffer("shift", torch.logit(torch.tensor(threshold)))

    def forward(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, boxes = self.net(normalised(pair))
        heat = torch.sigmoid(logits - self.shift)
        peaks = heat * (heat == F.max_pool2d(heat, 3, 1, 1)).float()
        scores, at = peaks.flatten(1).topk(TOP_K, dim=1)
        cells = heat.shape[2] * heat.shape[3]
        labels, at = at // cells, at % cells
        centre, size = boxes.flatten(2).transpose(1, 2).gather(1, at.unsqueeze(2).expand(-1, -1, 4)).split(2, dim=2)
        low, high = (centre - size / 2).clamp(0, self.size), (centre + size / 2).clamp(0, self.size)
        same = (labels.unsqueeze(2) == labels.unsqueeze(1)).float()
        over = _overlap(low, high) * torch.ones(TOP_K, TOP_K, device=low.device).tril(-1)  # with those of higher score
        # a second opinion on a defect's class stays, but below the cut
        scores = scores * (1 - (over * same > OVERLAP).float().amax(dim=2)) * (1 - 0.5 * (over > OVERLAP).float().amax(dim=2))
        scores, order = scores.topk(TOP_K, dim=1)
        corners = torch.cat([low, high - low], 2).gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        return corners, scores, labels.gather(1, order).to(torch.int32)


def _overlap(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """[n, K, K]: intersection over union of every box with every box."""
    area = (high - low).prod(dim=2)
    shared = (torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - torch.maximum(low.unsqueeze(2), low.unsqueeze(1))).clamp(min=0)
    inter = shared.prod(dim=3)
    return inter / (area.unsqueeze(2) + area.unsqueeze(1) - inter + 1e-6)
