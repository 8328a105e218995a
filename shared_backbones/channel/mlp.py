"""Dense channel layers."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout


class MLP(nn.Module):
    """W2 gelu(W1 x): the position-wise layer of "Attention Is All You Need" (Vaswani et al. 2017), with GELU."""

    def __init__(self, dim: int, ratio: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = max(1, round(ratio * dim))
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return self.down(self.dropout(F.gelu(self.up(x))))


class GLU(nn.Module):
    """W3 (silu(W1 x) * W2 x): "GLU Variants Improve Transformer" (Shazeer 2020)."""

    def __init__(self, dim: int, ratio: float = 8 / 3, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = max(1, round(ratio * dim))
        self.gate, self.up, self.down = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))


class NoChannel(nn.Module):
    """y = 0: a block of the mixer alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return x.new_zeros(x.shape)
