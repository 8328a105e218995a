"""Channel layers that look beyond one token: at its neighbours, or at the mean of all.

Shapes: B items, N tokens, C channels, H hidden channels.
"""

from __future__ import annotations

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..activations import activation
from ..layout import Layout
from ..mixers.convolution import DepthwiseConv
from .base import Channel, hidden_of


class ConvFFN(Channel):
    """y = W2 act(DWConv(W1 x)): "PVT v2: Improved Baselines with Pyramid Vision Transformer" (Wang et al. 2022).

    kernel: width of the depthwise convolution along every axis.
    """

    sets: ClassVar[bool] = False
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        ratio: float = 4.0,
        kernel: int = 3,
        act: str = "gelu",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.rank, hidden = rank, hidden_of(dim, ratio)
        self.up, self.down, self.act = nn.Linear(dim, hidden), nn.Linear(hidden, dim), activation(act)
        self.conv = DepthwiseConv(hidden, kernel, rank, frozenset(causal_axes))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.down(self.act(self.conv(self.up(layout.clean(x)), layout)))


class EfficientChannelAttention(Channel):
    """y = x * sigmoid(w * m), m the mean over the real tokens, w a filter over neighbouring channels.

    "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks" (Wang et al. 2020). The width of w is
    the odd number nearest to (log2 C + 1) / 2.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset()
    cost: ClassVar[str] = "O(k d)"  # beyond the mean and the product, which no counter counts

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = int((math.log2(dim) + 1) / 2)
        width += 1 - width % 2
        self.filter = nn.Conv1d(1, 1, width, padding=width // 2, bias=False)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        return x * self.filter(x.sum(1, keepdim=True) / layout.counts(x)).sigmoid()
