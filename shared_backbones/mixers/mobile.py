"""Blocks of mobile networks: inverted residuals with channel gates, and cheap features from few.

Shapes: B items, N tokens, C channels, H hidden channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..activations import activation
from ..blocks import pooled, spread
from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer
from .convolution import DepthwiseConv, NormedLinear


class SqueezeExcite(nn.Module):
    """x * sigmoid(W2 silu(W1 m)) with m the mean of the real tokens, W1 with ``hidden`` rows.

    "Squeeze-and-Excitation Networks" (Hu et al. 2018).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        x = layout.clean(x)
        return x * self.gate(x.sum(1, keepdim=True) / layout.counts(x))


class ChannelGate(Mixer):
    """y = x * sigmoid(W2 silu(W1 m)), the gate of :class:`SqueezeExcite` as a word of its own.

    squeeze: rows of W1 over C.
    """

    sets: ClassVar[bool] = True
    cost: ClassVar[str] = "O(d^2)"  # beyond the mean and the product, which no counter counts

    def __init__(self, dim: int, squeeze: float = 0.25) -> None:
        super().__init__()
        self.gate = SqueezeExcite(dim, max(1, round(squeeze * dim)))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.gate(x, layout)


class MBConv(Mixer):
    """y = W2 SE(act(norm(DWConv(act(norm(W1 x)))))): the inverted residual of mobile networks, with ``channel: none``.

    "MobileNetV2" (Sandler et al. 2018), with the channel gate SE of "EfficientNet" (Tan and Le 2019), as in "MaxViT"
    (Tu et al. 2022, squeeze 0.25), "MOAT" (Yang et al. 2023, without) and "EfficientViT" (Cai et al. 2023, without).

    ratio: hidden over C. squeeze: width of SE over C, 0 for none; SE sees all tokens, so nothing with it is causal.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        kernel: int = 3,
        ratio: float = 4.0,
        act: str = "gelu",
        norm: str = "batch",
        squeeze: float = 0.0,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank = frozenset(causal_axes), rank
        if squeeze and causal_axes:
            raise BadRequest("a squeezed channel gate looks at all tokens, so it cannot be causal: set squeeze to 0")
        hidden = max(1, round(ratio * dim))
        self.up, self.act = NormedLinear(dim, hidden, norm, self.causal), activation(act)
        self.conv, self.act2 = DepthwiseConv(hidden, kernel, rank, self.causal, norm=norm), activation(act)
        self.squeeze = SqueezeExcite(hidden, max(1, round(squeeze * dim))) if squeeze else None
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        hidden = self.act2(self.conv(self.act(self.up(layout.clean(x), layout)), layout))
        return self.down(hidden if self.squeeze is None else self.squeeze(hidden, layout))


class GhostFeatures(nn.Module):
    """Half of the output by a linear map, the other half by a depthwise convolution of the first."""

    def __init__(self, dim: int, dim_out: int, kernel: int, rank: int, norm: str, act: str) -> None:
        super().__init__()
        self.width = dim_out
        self.main = NormedLinear(dim, dim_out - dim_out // 2, norm)
        self.cheap = DepthwiseConv(dim_out - dim_out // 2, kernel, rank, frozenset(), norm=norm)
        self.act, self.act2 = activation(act), activation(act)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N K"]:
        first = self.act(self.main(x, layout))
        return torch.cat([first, self.act2(self.cheap(first, layout))], -1)[..., : self.width]


class Ghost(Mixer):
    """y = G2(sigmoid(A(x)) * G1(x)), G1 and G2 ghost features, A a long gate at half resolution.

    "GhostNetV2: Enhance Cheap Operation with Long-Range Attention" (Tang et al. 2022). A maps the means of blocks of
    2^rank tokens to the hidden width and convolves along one axis after the other, ``reach`` places each.
    """

    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self, dim: int, ratio: float = 2.0, kernel: int = 3, reach: int = 5, norm: str = "batch", rank: int = 1
    ) -> None:
        super().__init__()
        self.rank, hidden = rank, max(1, round(ratio * dim))
        self.expand = GhostFeatures(dim, hidden, kernel, rank, norm, "relu")
        self.reduce = GhostFeatures(hidden, dim, kernel, rank, norm, "none")
        self.enter = NormedLinear(dim, hidden, norm)
        self.along = nn.ModuleList(
            DepthwiseConv(hidden, tuple(reach if a == axis else 1 for a in range(rank)), rank, frozenset(), norm=norm)
            for axis in reversed(range(rank))
        )

    def gate(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N K"]:
        """sigmoid(A(x)), every token with the value of its block."""
        means, blocks = pooled(x, layout, (2,) * layout.rank)
        y = self.enter(means, blocks)
        for conv in self.along:
            y = conv(y, blocks)
        return layout.unfold(spread(blocks.fold(y.sigmoid()), layout.axes, 2))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        return self.reduce(self.gate(x, layout) * self.expand(x, layout), layout)
