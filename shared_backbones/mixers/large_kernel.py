"""Gates with a wide view: large kernels in pieces, additive similarity, and channels against positions.

Shapes: B items, N tokens, C channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import BadRequest
from ..layout import Layout
from .base import Mixer
from .convolution import DepthwiseConv


class LargeKernel(Mixer):
    """y = x + W3 (W2 DWConv_far(DWConv_near(u)) * u) with u = gelu(W1 x).

    "Visual Attention Network" (Guo et al. 2023): a kernel of 21 places as one of 5 and one of 7 that stand 3 apart.

    near, far: widths of the two depthwise convolutions; dilation: how far apart the places of the second stand.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        near: int = 5,
        far: int = 7,
        dilation: int = 3,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank = frozenset(causal_axes), rank
        self.into, self.gate, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.near = DepthwiseConv(dim, near, rank, self.causal)
        self.far = DepthwiseConv(dim, far, rank, self.causal, dilation)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        u = F.gelu(self.into(x))
        return x + self.out(self.gate(self.far(self.near(u, layout), layout)) * u)


class TwoGates(nn.Module):
    """z = u sigmoid(w relu(norm(DWConv(u)))), then z sigmoid(W m): a gate per token, then one per channel.

    m is the mean of z over the real tokens.
    """

    def __init__(self, dim: int, kernel: int, rank: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel, rank, frozenset(), norm="batch")
        self.token, self.channel = nn.Linear(dim, 1, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, u: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        z = layout.clean(u * self.token(F.relu(self.conv(u, layout))).sigmoid())
        return z * self.channel(z.sum(1, keepdim=True) / layout.counts(z)).sigmoid()


class Additive(Mixer):
    """y = DWConv_2(DWConv_1(Phi_q(q) + Phi_k(k)) * v) with q, k, v = W x and Phi a token gate, then a channel gate.

    "CAS-ViT: Convolutional Additive Self-attention Vision Transformers for Efficient Mobile Applications" (Zhang et
    al. 2024).
    """

    cost: ClassVar[str] = "O(N d^2 + N k^r d)"

    def __init__(self, dim: int, kernel: int = 3, rank: int = 1) -> None:
        super().__init__()
        self.rank = rank
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.phi_q, self.phi_k = TwoGates(dim, kernel, rank), TwoGates(dim, kernel, rank)
        self.context = DepthwiseConv(dim, kernel, rank, frozenset())
        self.out = DepthwiseConv(dim, kernel, rank, frozenset())

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        q, k, v = self.qkv(layout.clean(x)).chunk(3, -1)
        return self.out(self.context(self.phi_q(q, layout) + self.phi_k(k, layout), layout) * v, layout)


class Polarised(Mixer):
    """y = a_c * x + a_t * x: a gate per channel that collapses all tokens, and one per token that collapses channels.

    "Polarized Self-Attention: Towards High-quality Pixel-wise Regression" (Liu et al. 2021). a_c = sigmoid(norm(W_z
    sum_i softmax_i(w_q x_i) W_v x_i)); a_t(i) = sigmoid(softmax_c(mean_j U_q x_j) . U_v x_i), both through C / 2
    channels.

    arrangement: parallel adds the two; sequential gates tokens after channels, y = a_t(z) * z with z = a_c * x.
    """

    cost: ClassVar[str] = "O(N d^2)"
    sets: ClassVar[bool] = True

    def __init__(self, dim: int, arrangement: str = "parallel") -> None:
        super().__init__()
        if arrangement not in ("parallel", "sequential"):
            raise BadRequest(f"arrangement must be parallel or sequential, got {arrangement!r}")
        self.parallel, half = arrangement == "parallel", max(1, dim // 2)
        self.weight, self.value, self.raise_ = nn.Linear(dim, 1, bias=False), nn.Linear(dim, half), nn.Linear(half, dim)
        self.norm = nn.LayerNorm(dim)
        self.query, self.key = nn.Linear(dim, half), nn.Linear(dim, half)

    def channels(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B 1 C"]:
        """a_c."""
        scores = self.weight(x)
        if layout.mask is not None:
            scores = scores.masked_fill(~layout.mask[..., None], torch.finfo(scores.dtype).min)
        return self.norm(self.raise_(scores.softmax(1).mT @ self.value(x))).sigmoid()

    def tokens(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N 1"]:
        """a_t."""
        mean = self.query(x.sum(1, keepdim=True) / layout.counts(x))
        return (self.key(x) @ mean.softmax(-1).mT).sigmoid()

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        z = x * self.channels(x, layout)
        return z + x * self.tokens(x, layout) if self.parallel else z * self.tokens(z, layout)
