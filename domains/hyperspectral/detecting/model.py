"""The detector: classical statistics, weighed by a logistic, and a preset's network that adds what they do not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.presets import Preset

from ..model import SceneFeatures, box_mean
from .detectors import Background

RING = 2  # the second statistic compares a pixel with the mean over the square of this radius around it
STATISTICS = 4


class Detector(SceneFeatures):
    """Cubes -> the logit of a target at every pixel. ``s`` is the whitened target; without one it is zero."""

    back: Tensor
    whiten: Tensor
    s: Tensor
    shift: Tensor
    spread: Tensor

    def __init__(
        self, nm: Sequence[float], mean: Sequence[float], std: Sequence[float], preset: Preset, patch_radius: int
    ) -> None:
        super().__init__(nm, mean, std, preset, patch_radius)
        b = len(nm)
        for name, blank in (("back", torch.zeros(b)), ("whiten", torch.eye(b)), ("s", torch.zeros(b))):
            self.register_buffer(name, blank)
        self.register_buffer("shift", torch.zeros(STATISTICS))
        self.register_buffer("spread", torch.ones(STATISTICS))
        self.weigh = nn.Linear(STATISTICS, 1)
        self.head = nn.Linear(self.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def reach(self) -> int:
        """How far (pixels) the answer for a pixel depends on others."""
        return max(self.spatial_reach, RING)

    def know(self, b: Background, target: Float[Tensor, "b"] | None) -> None:
        """Set the background and the target."""
        self.back.copy_(torch.from_numpy(b.mean))
        self.whiten.copy_(torch.from_numpy(b.whiten))
        self.s.zero_()
        if target is not None:
            self.s.copy_((target.to(self.back) - self.back) @ self.whiten)

    def statistics(
        self, cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B S rows cols"]:
        """log RX, log RX against the surroundings, the whitened cosine to the target, the matched filter."""
        valid = seen.any(1)
        x = torch.where(seen, cube, self.back[:, None, None]) - self.back[:, None, None]
        w = torch.einsum("bc,nbij->ncij", self.whiten, x) * valid[:, None]
        length = w.square().sum(1)
        local = (w - box_mean(w, valid, RING)).square().sum(1)
        along, s = torch.einsum("c,ncij->nij", self.s, w), self.s.norm().clamp_min(1e-6)
        cosine = along / (length.sqrt() * s).clamp_min(1e-6)
        return torch.stack([length.add(1e-3).log(), local.add(1e-3).log(), cosine, along / s**2], 1)

    def forward(
        self, cube: Float[Tensor, "B b rows cols"], seen: Bool[Tensor, "B b rows cols"]
    ) -> Float[Tensor, "B rows cols"]:
        """Logits; 0 at a pixel of which no band was measured."""
        valid = seen.any(1)
        known = (self.statistics(cube, seen).movedim(1, -1)[valid] - self.shift) / self.spread
        x, there = cube.movedim(1, -1)[valid], seen.movedim(1, -1)[valid]
        moments, real = self.moments(x, there)
        found = self.weigh(known) + self.head(self.features(moments, real, valid))
        out = found.new_zeros(valid.shape)
        out[valid] = found[:, 0]
        return out


@runtime_checkable
class Weighing(Protocol):
    """A model whose answer is a weighed sum of standardised statistics, plus what it learns."""

    shift: Tensor
    spread: Tensor
    weigh: nn.Linear


@torch.no_grad()
def start_logistic(model: Weighing, x: Float[Tensor, "n S"], y: Float[Tensor, "n"]) -> None:
    """Set how the statistics are weighed."""
    shift, spread, w = logistic(x, y)
    model.shift.copy_(shift)
    model.spread.copy_(spread)
    model.weigh.weight.copy_(w[None, :-1])
    model.weigh.bias.copy_(w[-1:])


def logistic(
    x: Float[Tensor, "n S"], y: Float[Tensor, "n"], steps: int = 25
) -> tuple[Float[Tensor, "S"], Float[Tensor, "S"], Float[Tensor, "T"]]:
    """The logistic over statistics by Newton's method, with a slight ridge: their mean and spread, then T = S + 1
    weights of the standardised ones, the offset last.
    """
    x, y = x.double(), y.double()
    shift, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    z = torch.cat([(x - shift) / spread, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    w = torch.zeros(z.shape[1], dtype=z.dtype)
    ridge = 1e-3 * torch.eye(len(w), dtype=z.dtype)
    for _ in range(steps):
        p = (z @ w).sigmoid()
        slope = z.T @ (p - y) / len(z) + ridge @ w
        w = w - torch.linalg.solve((z * (p * (1 - p))[:, None]).T @ z / len(z) + ridge, slope)
    return shift, spread, w
