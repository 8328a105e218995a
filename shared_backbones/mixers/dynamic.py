"""Small filters that every token makes for its own neighbourhood.

Shapes: B items, N tokens, C channels, G groups of channels with one filter each, T = kernel^rank taps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from ..norms import normalise
from .base import Mixer, at_least, heads_of
from .convolution import DepthwiseConv, NormedLinear, norm_of
from .gating import reach


def filtered(
    x: Float[Tensor, "B N C"],
    weights: Float[Tensor, "B N G T"],
    layout: Layout,
    kernel: int,
    causal: frozenset[int] = frozenset(),
) -> Float[Tensor, "B N C"]:
    """y_i = sum over taps t of w_i,t * x_(i+t), one filter per token and group of channels; zeros stand outside."""
    padded = reach(layout.fold(layout.clean(x)).movedim(-1, 1), kernel, causal)
    shifted = [padded]
    for axis in range(2, 2 + layout.rank):
        shifted = [part for one in shifted for part in one.unfold(axis, kernel, 1).unbind(-1)]
    groups, y = weights.shape[2], torch.zeros_like(x).unflatten(-1, (weights.shape[2], -1))
    for part, weight in zip(shifted, weights.unbind(-1), strict=True):
        y = y + layout.unfold(part.movedim(1, -1)).unflatten(-1, (groups, -1)) * weight[..., None]
    return y.flatten(-2)


class LargeSmall(Mixer):
    """y = norm(sum_t w_i,t x_(i+t)), the small filters w made by a wide view: see large, focus small.

    "LSNet: See Large, Focus Small" (Wang et al. 2025): w = groupnorm(W4 a(W3 DWConv(a(W1 x)))) through C / 2 channels,
    a = relu, batch norms after each part, one filter for every ``share`` channels. The group norm of a filter runs over
    its taps at all real tokens.

    wide: width of the depthwise convolution. kernel: of the small filters. share: None takes the largest divisor of C
    up to 8.
    """

    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self, dim: int, wide: int = 7, kernel: int = 3, share: int | None = None, norm: str = "batch", rank: int = 1
    ) -> None:
        super().__init__()
        self.rank, self.kernel, half = rank, at_least("kernel", kernel, 1), max(1, dim // 2)
        share = next(s for s in range(8, 0, -1) if dim % s == 0) if share is None else share
        self.groups = heads_of(dim, dim // at_least("share", share, 1))
        self.one, self.three = NormedLinear(dim, half, norm), NormedLinear(half, half, norm)
        self.two = DepthwiseConv(half, wide, rank, frozenset(), norm=norm)
        taps = self.groups * kernel**rank
        self.four, self.norm = nn.Linear(half, taps), norm_of(norm, dim)
        self.scale, self.shift = nn.Parameter(torch.ones(taps)), nn.Parameter(torch.zeros(taps))

    def weights(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N G T"]:
        """w of every token, with mean 0 and variance 1 over taps and real tokens before scale and shift."""
        hidden = self.three(self.two(F.relu(self.one(x, layout)), layout), layout)
        w = layout.clean(self.four(F.relu(hidden))).unflatten(-1, (self.groups, -1))
        count = layout.counts(x)[..., None] * w.shape[-1]
        real = 1.0 if layout.mask is None else layout.mask[..., None, None].to(w.dtype)
        centred = (w - w.sum((1, 3), keepdim=True) / count) * real
        w = centred * torch.rsqrt(centred.square().sum((1, 3), keepdim=True) / count + 1e-5)
        return w * self.scale.unflatten(0, (self.groups, -1)) + self.shift.unflatten(0, (self.groups, -1))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        return normalise(self.norm, filtered(x, self.weights(x, layout), layout, self.kernel), layout)


class DynamicLocal(Mixer):
    """y = W4 sum_t w_i,t v_(i+t) with v = W1 x and filters w = W3 relu(DWConv(W2 x)) per token and head.

    The local half of "DLGSANet: Lightweight Dynamic Local and Global Self-Attention Networks for Image
    Super-Resolution" (Li et al. 2023).

    heads: groups of channels with a filter each. kernel: of the filters and of the depthwise convolution.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        kernel: int = 3,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.rank, self.causal = rank, frozenset(causal_axes)
        self.heads, self.kernel = heads_of(dim, heads), at_least("kernel", kernel, 1)
        self.both, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.near = DepthwiseConv(dim, kernel, rank, self.causal)
        self.weigh = nn.Linear(dim, self.heads * kernel**rank)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        v, u = self.both(layout.clean(x)).chunk(2, -1)
        w = self.weigh(F.relu(self.near(u, layout))).unflatten(-1, (self.heads, -1))
        return self.out(filtered(v, w, layout, self.kernel, self.causal))
