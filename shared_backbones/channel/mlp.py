"""Dense channel layers."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..activations import activation
from ..layout import Layout
from .base import Channel, hidden_of


class MLP(Channel):
    """W2 act(W1 x): the position-wise layer of "Attention Is All You Need" (Vaswani et al. 2017), with GELU."""

    def __init__(
        self, dim: int, ratio: float = 4.0, dropout: float = 0.0, act: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        hidden = hidden_of(dim, ratio)
        self.up, self.down = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)
        self.act, self.dropout = activation(act), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return self.down(self.dropout(self.act(self.up(layout.clean(x)))))


class GLU(Channel):
    """W3 (act(W1 x) * W2 x): "GLU Variants Improve Transformer" (Shazeer 2020), with SiLU."""

    def __init__(
        self, dim: int, ratio: float = 8 / 3, dropout: float = 0.0, act: str = "silu", bias: bool = True
    ) -> None:
        super().__init__()
        hidden = hidden_of(dim, ratio)
        self.gate, self.up = nn.Linear(dim, hidden, bias), nn.Linear(dim, hidden, bias)
        self.down = nn.Linear(hidden, dim, bias)
        self.act, self.dropout = activation(act), nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        x = layout.clean(x)
        return self.down(self.dropout(self.act(self.gate(x)) * self.up(x)))


class NoChannel(Channel):
    """y = 0: a block of the mixer alone."""

    cost: ClassVar[str] = "O(1)"

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        return x.new_zeros(x.shape)
