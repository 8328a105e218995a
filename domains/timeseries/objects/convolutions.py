"""Fixed features: how often convolutions of a regular series are positive, or random bends of a table.

"MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series Classification" (Dempster, Schmidt and Webb
2021): kernels of nine weights, three of them 2 and six -1, all 84 of them, at dilations that grow exponentially; one
feature is the share of places where the convolution exceeds a threshold, PPV = mean_t 1[(x * w)_t > b], and the
thresholds are quantiles of the convolution of training series.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WEIGHTS = 9
KERNELS = list(itertools.combinations(range(WEIGHTS), 3))
MOST_DILATIONS = 32
AT_ONCE = 30_000_000  # numbers compared at once
GOLDEN = (math.sqrt(5) + 1) / 2


def dilations_of(length: int, features: int) -> tuple[list[int], list[int]]:
    """Dilations for series of ``length``, and how many thresholds every kernel has at each."""
    each = max(1, features // len(KERNELS))
    most = min(each, MOST_DILATIONS)
    last = math.log2(max(1.0, (length - 1) / (WEIGHTS - 1)))
    spread = [int(2 ** (last * i / max(1, most - 1))) for i in range(most)]
    dilations = sorted(set(spread))
    counts = [int(spread.count(d) * each / most) for d in dilations]
    for i in range(each - sum(counts)):
        counts[i % len(counts)] += 1
    return dilations, counts


class FixedConvolutions(nn.Module):
    """Series (B, T, V) -> features (B, F). Thresholds are set by :meth:`fit` from training series."""

    thresholds: Tensor
    kernels: Tensor
    picks: Tensor
    channels: Tensor

    def __init__(self, length: int, channels: int, features: int) -> None:
        super().__init__()
        self.dilations, self.counts = dilations_of(length, features)
        kernels = torch.full((len(KERNELS), WEIGHTS), -1.0)
        for row, places in zip(kernels, KERNELS, strict=True):
            row[list(places)] = 2.0
        self.register_buffer("kernels", kernels, persistent=False)
        self.features = len(KERNELS) * sum(self.counts)
        self.register_buffer("thresholds", torch.zeros(self.features))
        self.register_buffer("picks", torch.rand(len(self.dilations), len(KERNELS)))
        self.register_buffer("channels", self._channels(channels))

    def _channels(self, channels: int) -> Float[Tensor, "D 84 V"]:
        """Which channels each kernel sums: a few of them, drawn at random; the only one where there is one."""
        n = len(self.dilations) * len(KERNELS)
        size = (2 ** (torch.rand(n) * math.log2(min(channels, WEIGHTS) + 1))).long().clamp(1, channels)
        rank = torch.rand(n, channels).argsort(1).argsort(1)
        return (rank < size[:, None]).float().reshape(len(self.dilations), len(KERNELS), channels)

    def convolved(
        self, x: Float[Tensor, "B T V"], length: Int[Tensor, "B"], place: int
    ) -> tuple[Float[Tensor, "B 84 T"], Bool[Tensor, "B 84 T"]]:
        """Convolutions at one dilation, and which places count: every second kernel sees no zeros beyond the ends."""
        dilation = self.dilations[place]
        reach = dilation * (WEIGHTS // 2)
        weight = self.channels[place][:, :, None] * self.kernels[:, None, :]
        y = F.conv1d(x.mT, weight.to(x.dtype), padding=reach, dilation=dilation)
        t = torch.arange(x.shape[1], device=x.device)
        own = t < length[:, None]
        inner = (t >= reach) & (t < length[:, None] - reach)
        inner = torch.where(inner.any(1, keepdim=True), inner, own)
        padded = (torch.arange(len(KERNELS), device=x.device) + place) % 2 == 0
        return y, torch.where(padded[:, None], own[:, None], inner[:, None])

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n T V"], length: Int[Tensor, "n"]) -> None:
        """Thresholds: evenly spread quantiles of each kernel's convolution of one training series, drawn at random."""
        found, at = [], 0
        for place, count in enumerate(self.counts):
            chosen = (self.picks[place] * len(x)).long().clamp_max(len(x) - 1)
            for kernel, row in enumerate(chosen.tolist()):
                y, counted = self.convolved(x[row : row + 1], length[row : row + 1], place)
                share = torch.tensor([((at + kernel * count + i + 1) * GOLDEN) % 1 for i in range(count)])
                found.append(torch.quantile(y[0, kernel][counted[0, kernel]].float().cpu(), share))
            at += count * len(KERNELS)
        self.thresholds.copy_(torch.cat(found))

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "B T V"], length: Int[Tensor, "B"]) -> Float[Tensor, "B F"]:
        """Filled series, zeros behind each one's own ``length``."""
        step = max(1, AT_ONCE // max(1, len(KERNELS) * x.shape[1] * max(self.counts)))
        return torch.cat([self._some(x[i : i + step], length[i : i + step]) for i in range(0, len(x), step)])

    def _some(self, x: Float[Tensor, "B T V"], length: Int[Tensor, "B"]) -> Float[Tensor, "B F"]:
        found, at = [], 0
        for place, count in enumerate(self.counts):
            y, counted = self.convolved(x, length, place)
            size = count * len(KERNELS)
            threshold = self.thresholds[at : at + size].reshape(len(KERNELS), count)
            total = counted.sum(2)
            y = y.masked_fill(~counted, -torch.inf)
            above = [(y > threshold[:, i, None]).sum(2) / total for i in range(count)]
            found.append(torch.stack(above, 2).flatten(1))
            at += size
        return torch.cat(found, 1)


class FixedBends(nn.Module):
    """A standardised table (B, S) -> itself and random bends of it (B, S + H): relu(x A + c)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, columns: int, hidden: int) -> None:
        super().__init__()
        self.features = columns + hidden
        self.register_buffer("weight", torch.randn(columns, hidden) / math.sqrt(max(1, columns)))
        self.register_buffer("bias", torch.randn(hidden))

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "B S"]) -> Float[Tensor, "B F"]:
        return torch.cat([x, torch.relu(x @ self.weight + self.bias)], 1)
