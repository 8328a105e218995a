"""A plain residual network, the yardstick: "Deep Residual Learning for Image Recognition" (He et al. 2016), ResNet-18.

Shapes: B images, C channels, H rows, W columns, D width, L labels.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 and what went in, brought to the same shape where it differs."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(dim_in, dim, 3, stride, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.BatchNorm2d(dim))
        self.past: nn.Module = nn.Identity()
        if stride != 1 or dim_in != dim:
            self.past = nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return F.relu(self.second(self.first(x)) + self.past(x))


class ResNet18(nn.Module):
    """Eight blocks in four stages; with width 64 it has 11.2 M parameters."""

    def __init__(self, channels: int, labels: int, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        blocks, before = [], width
        for stage in range(4):
            for i in range(2):
                blocks.append(BasicBlock(before, width << stage, 2 if stage and not i else 1))
                before = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, labels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
