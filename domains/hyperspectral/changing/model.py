"""The change detector: both dates through one encoder, beside classical statistics that a logistic weighs.

Shapes: B windows, b bands of one date, k canonical variates, S statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.presets import Preset

from ..model import SceneFeatures, box_mean
from .classical import Linear, Mad

RING = 1  # the local statistics average over the square of this radius
STATISTICS = 5


class ChangeDetector(SceneFeatures):
    """Cubes of two dates, (B, 2 b, rows, cols) -> the logit of change at every pixel.

    A band counts where both dates measured it. ``threshold``: above it a pixel is called changed.
    """

    gain: Tensor
    offset: Tensor
    rho: Tensor
    shift: Tensor
    spread: Tensor
    threshold: Tensor

    def __init__(
        self,
        nm: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
        preset: Preset,
        patch_radius: int,
        variates: int,
    ) -> None:
        super().__init__(nm, mean, std, preset, patch_radius)
        b = len(nm)
        blanks = {"gain": torch.ones(b), "offset": torch.zeros(b), "mean_x": torch.zeros(b), "mean_y": torch.zeros(b)}
        blanks |= {"a": torch.zeros(variates, b), "b": torch.zeros(variates, b), "rho": torch.zeros(variates)}
        blanks |= {"shift": torch.zeros(STATISTICS), "spread": torch.ones(STATISTICS), "threshold": torch.zeros(())}
        for name, blank in blanks.items():
            self.register_buffer(name, blank)
        self.weigh = nn.Linear(STATISTICS, 1)
        self.head = nn.Linear(self.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def reach(self) -> int:
        """How far (pixels) the answer for a pixel depends on others."""
        return max(self.spatial_reach, RING)

    def know(self, linear: Linear, mad: Mad) -> None:
        """Set the normalisation of the second date and the canonical variates; too few are filled up with zeros."""
        self.gain.copy_(torch.from_numpy(linear.gain))
        self.offset.copy_(torch.from_numpy(linear.offset))
        for name in ("mean_x", "mean_y"):
            getattr(self, name).copy_(torch.from_numpy(getattr(mad, name)))
        for name in ("a", "b", "rho"):
            own = getattr(self, name).zero_()
            own[: len(mad.rho)] = torch.from_numpy(getattr(mad, name)).to(own)

    def dates(self, cube: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First date, second date on its scale, and where both were measured, each (B, b, rows, cols)."""
        b = cube.shape[1] // 2
        y = cube[:, b:] * self.gain[:, None, None] + self.offset[:, None, None]
        return cube[:, :b], y, seen[:, :b] & seen[:, b:]

    def statistics(self, x: Tensor, y: Tensor, both: Tensor, raw: Tensor) -> Float[Tensor, "B S rows cols"]:
        """Logs of the change vector's length and of its local mean's, the angle, logs of the sum of squared canonical
        differences and of their local mean's. ``raw``: the second date as it was measured.
        """
        valid, count = both.any(1), both.sum(1).clamp_min(1).to(x.dtype)
        d = ((y - x) / self.moments.std[:, None, None]).masked_fill(~both, 0.0)
        x, y = x.masked_fill(~both, 0.0), y.masked_fill(~both, 0.0)
        cosine = (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1)).sqrt().clamp_min(1e-12)
        mx, my = (m[:, None, None].expand_as(x) for m in (self.get_buffer("mean_x"), self.get_buffer("mean_y")))
        u = torch.einsum("kb,nbij->nkij", self.get_buffer("a"), torch.where(both, x, mx) - mx)
        v = torch.einsum("kb,nbij->nkij", self.get_buffer("b"), torch.where(both, raw, my) - my)
        c = ((u - v) / (2 * (1 - self.rho)).clamp_min(1e-6).sqrt()[:, None, None]) * valid[:, None]
        found = [
            (d.square().sum(1) / count).add(1e-4).log(),
            (box_mean(d, valid, RING).square().sum(1) / count).add(1e-4).log(),
            cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos(),
            c.square().sum(1).add(1e-2).log(),
            box_mean(c, valid, RING).square().sum(1).add(1e-2).log(),
        ]
        return torch.stack(found, 1)

    def known(self, cube: Tensor, seen: Tensor) -> Float[Tensor, "B S rows cols"]:
        """The statistics of windows."""
        x, y, both = self.dates(cube, seen)
        return self.statistics(x, y, both, cube[:, cube.shape[1] // 2 :])

    def encoded(self, x: Tensor, both: Tensor, valid: Tensor) -> Float[Tensor, "n d"]:
        moments, real = self.moments(x.movedim(1, -1)[valid], both.movedim(1, -1)[valid])
        return self.features(moments, real, valid)

    def forward(
        self, cube: Float[Tensor, "B b2 rows cols"], seen: Bool[Tensor, "B b2 rows cols"]
    ) -> Float[Tensor, "B rows cols"]:
        """Logits; 0 at a pixel of which no band was measured at both dates."""
        x, y, both = self.dates(cube, seen)
        valid = both.any(1)
        said = self.statistics(x, y, both, cube[:, cube.shape[1] // 2 :]).movedim(1, -1)[valid]
        apart = (self.encoded(y, both, valid) - self.encoded(x, both, valid)).abs()
        found = self.weigh((said - self.shift) / self.spread) + self.head(apart)
        out = found.new_zeros(valid.shape)
        out[valid] = found[:, 0]
        return out


def measured_in_both(seen: Any) -> Any:
    """True where any band was measured at both dates: (..., 2 b, rows, cols) -> (..., rows, cols)."""
    b = seen.shape[-3] // 2
    return (seen[..., :b, :, :] & seen[..., b:, :, :]).any(-3)
