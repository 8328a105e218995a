"""Attention from every token to fewer keys: a coarser copy of the lattice, made by means or by strided convolutions.

Shapes: B items, N tokens, M tokens of the coarser lattice, C channels, H heads, K channels of a query, D of a value.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import pooled, whole_blocks
from ..errors import unknown
from ..layout import Layout
from ..norms import normalise
from .base import Mixer, at_least, heads_of, join_heads, split_heads
from .convolution import norm_of
from .gating import CONV


class Thinned(nn.Module):
    """norm(conv(x)) at every ``stride``-th place: one window per block of stride^rank tokens, centred on it.

    Zeros stand at masked tokens and outside. A place is real when any token of its block is. The bias is left out
    where a norm other than the layer norm follows, as published models do. groups: 1, or the channels for one filter
    each.
    """

    def __init__(self, dim: int, stride: int, kernel: int | None, norm: str, rank: int, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.rank = at_least("factor", stride, 1), rank
        self.kernel = stride if kernel is None else at_least("kernel", kernel, 1)
        bias = norm in ("none", "layer")
        self.conv = CONV[rank](dim, dim, self.kernel, stride=stride, groups=groups, bias=bias)
        self.norm = norm_of(norm, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M C"], Layout]:
        coarse = pooled(x[..., :1], layout, (self.stride,) * layout.rank)[1]
        lattice, pads = layout.fold(layout.clean(x)).movedim(-1, 1), []
        ahead = max(0, (self.kernel - self.stride + 1) // 2)
        for n in reversed(lattice.shape[2:]):
            pads += [ahead, (whole_blocks(n, self.stride) - 1) * self.stride + self.kernel - n - ahead]
        y = self.conv(F.pad(lattice, pads)).flatten(2).mT
        return normalise(self.norm, coarse.clean(y), coarse), coarse


class BlockMeans(nn.Module):
    """norm of the mean over the real tokens of each block."""

    def __init__(self, dim: int, stride: int, norm: str) -> None:
        super().__init__()
        self.stride, self.norm = at_least("factor", stride, 1), norm_of(norm, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> tuple[Float[Tensor, "B M C"], Layout]:
        means, coarse = pooled(x, layout, (self.stride,) * layout.rank)
        return normalise(self.norm, means, coarse), coarse


WAYS = ("conv", "depthwise", "mean")


def reduction(how: str, dim: int, factor: int, kernel: int | None, norm: str, rank: int) -> nn.Module:
    """A module (x, layout) -> (z, coarse layout) by name; raises BadRequest for an unknown one."""
    if how not in WAYS:
        raise unknown("reduction", how, WAYS)
    if how == "mean":
        return BlockMeans(dim, factor, norm)
    return Thinned(dim, factor, kernel, norm, rank, groups=1 if how == "conv" else dim)


class Reduced(Mixer):
    """softmax(Q K^T / sqrt(K)) V with Q = W_q X and K, V = W_kv Z, Z = reduce(X) of factor^rank times fewer tokens.

    The spatial reduction of "Pyramid Vision Transformer" (Wang et al. 2021); by means that of "Next-ViT" (Li et al.
    2022), by depthwise filters that of "CMT: Convolutional Neural Networks Meet Vision Transformers" (Guo et al. 2022),
    with ``key_dim: 1`` the strip attention of "S2AFormer" (Xu et al. 2025).

    how: conv | depthwise | mean. kernel: of the convolution along every axis, by default the factor. norm: after it.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        factor: int = 2,
        how: str = "conv",
        kernel: int | None = None,
        norm: str = "layer",
        head_dim: int | None = None,
        key_dim: int | None = None,
        qkv_bias: bool = True,
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads = heads_of(dim, heads) if head_dim is None else at_least("heads", 4 if heads is None else heads, 1)
        head = dim // self.heads if head_dim is None else at_least("head_dim", head_dim, 1)
        key = head if key_dim is None else at_least("key_dim", key_dim, 1)
        self.rank = None if how == "mean" else rank
        self.reduce = reduction(how, dim, factor, kernel, norm, rank)
        self.widths = [key * self.heads, head * self.heads]
        self.q = nn.Linear(dim, self.widths[0], bias=qkv_bias)
        self.kv = nn.Linear(dim, sum(self.widths), bias=qkv_bias)
        self.out = nn.Linear(self.widths[1], dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        x = layout.clean(x)
        z, coarse = self.reduce(x, layout)
        k, v = self.kv(z).split(self.widths, -1)
        return self.out(read(self.q(x), k, v, self.heads, coarse))


class ConvProjected(Mixer):
    """Q = W_q DW(X), K = W_k DW_s(X), V = W_v DW_s(X): depthwise filters before the projections, DW_s with a stride.

    "CvT: Introducing Convolutions to Vision Transformers" (Wu et al. 2021). Tokens need no other positions.

    factor: stride of the keys and values. kernel: width of the filters along every axis. norm: after each of them.
    """

    cost: ClassVar[str] = "O(N^2 d + N d^2 + N k^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        factor: int = 2,
        kernel: int = 3,
        norm: str = "batch",
        qkv_bias: bool = True,
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.rank = heads_of(dim, heads), rank
        self.filters = nn.ModuleList(Thinned(dim, s, kernel, norm, rank, groups=dim) for s in (1, factor, factor))
        self.maps = nn.ModuleList(nn.Linear(dim, dim, bias=qkv_bias) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        filtered = [thin(x, layout) for thin in self.filters]
        q, k, v = (linear(z) for linear, (z, _) in zip(self.maps, filtered, strict=True))
        return self.out(read(q, k, v, self.heads, filtered[1][1]))


def read(
    q: Float[Tensor, "B N P"], k: Float[Tensor, "B M P"], v: Float[Tensor, "B M E"], heads: int, keys: Layout
) -> Float[Tensor, "B N E"]:
    """What N queries read from the values on another lattice, head by head."""
    q, k, v = (split_heads(t, heads) for t in (q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=keys.key_mask()))
