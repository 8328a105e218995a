"""Places over time: tokens on (time, sensor), or on (time, row, column), mixed by any backbone of that rank.

Shapes: B windows, L look-back, H horizon, V places, C width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared_backbones.backbone import Backbone, Tokens
from shared_backbones.errors import BadRequest
from shared_backbones.layout import Layout
from shared_backbones.presets import Preset

ORDER = 3  # polynomials of the graph convolution


class GraphConvolution(nn.Module):
    """y = sum_k T_k(S) x W_k on the places of each moment, let in by a gate g = sigmoid(U [x, y]).

    T_k are Chebyshev polynomials of S = -D^-1/2 A D^-1/2: "Convolutional Neural Networks on Graphs with Fast Localized
    Spectral Filtering" (Defferrard et al. 2016), gated as in "Spatial-Temporal Transformer Networks for Traffic Flow
    Forecasting" (Xu et al. 2020).
    """

    shift: Tensor

    def __init__(self, dim: int, adjacency: Float[Tensor, "V V"]) -> None:
        super().__init__()
        degree = adjacency.sum(1)
        scale = torch.where(degree > 0, degree.clamp_min(1e-12).rsqrt(), 0.0)
        self.register_buffer("shift", -scale[:, None] * adjacency * scale)
        self.maps = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(ORDER))
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, x: Float[Tensor, "B L V C"]) -> Float[Tensor, "B L V C"]:
        now, before = x, torch.zeros_like(x)
        y = self.maps[0](x)
        for k, weight in enumerate(self.maps):
            if k == 0:
                continue
            moved = torch.einsum("vw,blwc->blvc", self.shift, now)
            now, before = (moved if k == 1 else 2 * moved - before), now
            y = y + weight(now)
        return x + torch.sigmoid(self.gate(torch.cat([x, y], -1))) * y


class LatticeResidual(nn.Module):
    """Normalised look-backs -> corrections (B, H, V), every place told from the mixed tokens of its own look-back."""

    def __init__(
        self, preset: Preset, lookback: int, horizon: int, *, context: int, ahead: int, static: int, dropout: float,
        from_zero: bool, lattice: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if lattice is None:
            raise BadRequest(f"preset {preset.name!r} mixes places over time: it is for timeseries/traffic")
        self.axes = (lookback, *lattice["axes"])
        if len(self.axes) not in preset.ranks:
            raise BadRequest(
                f"preset {preset.name!r} serves lattices of {', '.join(map(str, preset.ranks))} axes, and these tokens "
                f"have {len(self.axes)} (time{', sensor' if len(self.axes) == 2 else ', row, column'}): "
                + ("set grid=[ROWS,COLUMNS]" if len(self.axes) == 2 else "leave grid= out")
            )
        if ahead:
            raise BadRequest("timeseries/traffic takes no covariates known ahead, and no calendar")
        places = math.prod(lattice["axes"])
        self.backbone = Backbone(preset.backbone, Tokens(rank=len(self.axes)))
        dim = self.backbone.dim_in
        self.embed = nn.Linear(2 + context + static, dim)
        self.place = nn.Parameter(torch.randn(places, dim) * 0.02)
        self.moment = nn.Parameter(torch.randn(lookback, 1, dim) * 0.02)
        self.road = GraphConvolution(dim, torch.tensor(lattice["adjacency"])) if lattice["adjacency"] else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(lookback * self.backbone.dim, horizon)
        if from_zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Float[Tensor, "B L V"], mask: Bool[Tensor, "B L V"], context: Float[Tensor, "B L W K"],
        context_mask: Bool[Tensor, "B L W K"], ahead: Float[Tensor, "B H W2 F"], static: Float[Tensor, "V S"],
    ) -> Float[Tensor, "B H V"]:  # fmt: skip
        b, steps, places = x.shape
        wide = [x[..., None], mask[..., None].to(x.dtype), context.expand(-1, -1, places, -1)]
        wide.append(static.expand(b, steps, -1, -1))
        tokens = self.embed(torch.cat(wide, -1)) + self.place + self.moment
        if self.road is not None:
            tokens = self.road(tokens)
        mixed, _ = self.backbone(self.dropout(tokens).flatten(1, 2), Layout(self.axes))
        own = self.dropout(mixed).unflatten(1, (steps, places)).transpose(1, 2).flatten(2)
        return self.head(own).mT
