"""The network of wafer_pattern: a small residual net on two channels, and the graph that goes to Triton."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; stride 2 halves the side."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride != 1 else nn.Identity(), nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class WaferNet(nn.Module):
    """float [n, 2, 64, 64] (share of failed dies, share of dies per cell) -> logits [n, classes]."""

    def __init__(self, class_count: int, widths: tuple[int, int, int] = (24, 64, 96)) -> None:
        super().__init__()
        narrow, middle, wide = widths
        # the first layer keeps the full side: a scratch is one die wide
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, narrow, 3, 2, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
        )
        self.body = nn.Sequential(
            Residual(narrow, narrow, 1),
            Residual(narrow, middle, 2),
            Residual(middle, middle, 1),
            Residual(middle, wide, 2),
            Residual(wide, wide, 1),
        )
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(2 * wide, class_count)
        axis = torch.linspace(-1.0, 1.0, 64)
        self.register_buffer("radius", (axis[:, None] ** 2 + axis[None, :] ** 2).sqrt()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # the distance from the centre tells an edge pattern from a local one and does not change under rotation
        x = torch.cat([x, self.radius.expand(x.shape[0], 1, 64, 64)], dim=1)
        x = self.body(self.stem(x))
        # the mean sees how much, the maximum whether at all: a scratch is small
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return self.head(self.drop(pooled))


class ServedNet(nn.Module):
    """uint8 [n, 1, 128, 128] -> scores float32 [n, classes] that sum to 1; thresholds, cell counts and averaging inside."""

    def __init__(self, net: nn.Module, views: int = 1) -> None:
        super().__init__()
        if views not in (1, 2, 4, 8):
            raise ValueError(f"views is 1, 2, 4 or 8 turned and mirrored copies, not {views}")
        self.net, self.views = net, views

    def forward(self, image: Tensor) -> Tensor:
        gray = image.float()
        planes = torch.cat([(gray >= 192.0).float(), (gray >= 64.0).float()], dim=1)
        cells = functional.avg_pool2d(planes, 2)
        logits = sum(self.net(view) for view in turned_views(cells, self.views)) / self.views
        return torch.softmax(logits, dim=1)


def turned_views(x: Tensor, views: int) -> list[Tensor]:
    """The first `views` of the eight symmetries of a square, each [n, c, s, s]."""
    found = [x]
    if views >= 2:
        found.append(x.flip(2, 3))
    if views >= 4:
        found += [view.transpose(2, 3).flip(3) for view in list(found)]
    if views >= 8:
        found += [view.flip(3) for view in list(found)]
    return found
