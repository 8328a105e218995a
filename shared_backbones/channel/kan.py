"""Kolmogorov-Arnold layers: learned functions of one variable in place of weights.

Shapes: B items, N tokens, C channels, H hidden channels, G places of the grid.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from ..mixers.base import at_least
from .base import Channel, hidden_of


class KanLinear(nn.Module):
    """y_o = sum_c sum_g W_ocg phi((u_c - t_g) / h), u = norm(x), phi(a) = 1 - tanh(a)^2 at places t_g spaced by h.

    The bump functions are those of "Medical Image Classification with KAN-Integrated Transformers and Dilated
    Neighborhood Attention" (Manzari et al. 2025), after "KAN: Kolmogorov-Arnold Networks" (Liu et al. 2024).
    """

    grid: Tensor

    def __init__(self, dim: int, out: int, places: int = 8, low: float = -2.0, high: float = 2.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("grid", torch.linspace(low, high, at_least("places", places, 2)))
        self.step = (high - low) / (places - 1)
        self.weight = nn.Linear(dim * places, out, bias=False)

    def forward(self, x: Float[Tensor, "*tokens C"]) -> Float[Tensor, "*tokens O"]:
        bumps = 1 - torch.tanh((self.norm(x)[..., None] - self.grid) / self.step) ** 2
        return self.weight(bumps.flatten(-2))


class Kan(Channel):
    """y = K2 K1 x, two KAN layers with ratio * C channels between.

    places: G, the size of the grid of each function.
    """

    cost: ClassVar[str] = "O(N G d^2)"

    def __init__(self, dim: int, ratio: float = 1.0, places: int = 8) -> None:
        super().__init__()
        hidden = hidden_of(dim, ratio)
        self.up, self.down = KanLinear(dim, hidden, places), KanLinear(hidden, dim, places)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.down(self.up(layout.clean(x)))
