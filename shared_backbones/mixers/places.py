"""Mixing over the places of blocks: learned matrices over a fixed number of tokens, near ones or ones far apart.

A matrix over tokens has a size. Here it is that of a block of ``window`` places per axis, ``dilation`` apart, at fixed
places of the lattice: one block that is as large as the lattice is the layer of the papers, and on larger lattices the
blocks share their matrix.

Shapes: B items, N tokens, C channels, G blocks of P = window^rank places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks
from ..layout import Layout
from .base import Mixer, at_least
from .combine import Sentence
from .words import channel_part


def apart(x: Float[Tensor, "B G Q C"], window: int, dilation: int, rank: int) -> Float[Tensor, "B H P C"]:
    """Blocks of (window * dilation)^rank places -> dilation^rank as many, of places that stand ``dilation`` apart."""
    x = x.unflatten(2, (window, dilation) * rank)
    order = (*range(3, 2 * rank + 2, 2), *range(2, 2 * rank + 2, 2))
    return x.permute(0, 1, *order, 2 * rank + 2).flatten(2 + rank, 1 + 2 * rank).flatten(1, 1 + rank)


def together(x: Float[Tensor, "B H P C"], window: int, dilation: int, rank: int) -> Float[Tensor, "B G Q C"]:
    """The inverse of :func:`apart`."""
    x = x.unflatten(2, (window,) * rank).unflatten(1, (-1, *(dilation,) * rank))
    order = [2 + axis + part for axis in range(rank) for part in (rank, 0)]
    return x.permute(0, 1, *order, 2 * rank + 2).flatten(2, 1 + 2 * rank)


def over_blocks(
    x: Float[Tensor, "B N C"],
    layout: Layout,
    window: int,
    dilation: int,
    f: Callable[[Float[Tensor, "B G P C"]], Float[Tensor, "B G P C"]],
) -> Float[Tensor, "B N C"]:
    """``f`` of the blocks of a lattice; masked tokens, and places beyond the lattice, count as zero."""
    sizes = (window * dilation,) * layout.rank
    y = f(apart(to_blocks(layout.fold(layout.clean(x)), sizes), window, dilation, layout.rank))
    return layout.unfold(from_blocks(together(y, window, dilation, layout.rank), layout.axes, sizes))


class TokenMLP(Mixer):
    """y^T = f(x^T) over the P places of each block, for every channel alike; f is a channel layer of width P.

    "MLP-Mixer: An all-MLP Architecture for Vision" (Tolstikhin et al. 2021) with an MLP as f; with a GLU the core of
    "Activator: GLU Activations as The Core Functions of a Vision Transformer" (Abdullah and Sun 2024). Masked tokens
    count as zero.

    layer: f by name, or by name and options, such as ``{channel: mlp, ratio: 0.5}``.
    """

    def __init__(self, dim: int, window: int = 4, dilation: int = 1, layer: Sentence = "mlp", rank: int = 1) -> None:
        super().__init__()
        self.rank, self.window, self.dilation = rank, at_least("window", window, 1), at_least("dilation", dilation, 1)
        self.layer = channel_part(self, layer, window**rank, ordered=False)

    def mix(self, blocks: Float[Tensor, "B G P C"]) -> Float[Tensor, "B G P C"]:
        rows = blocks.mT.flatten(0, 1)
        return self.layer(rows, Layout((rows.shape[1],), ordered=False)).mT.reshape(blocks.shape)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return over_blocks(x, layout, self.window, self.dilation, self.mix)


class SpatialGating(Mixer):
    """y = W2 (u * (M norm(v) + b)) with u, v = gelu(W1 x), M a matrix over the P places of each block.

    "Pay Attention to MLPs" (Liu et al. 2021); on two halves of the channels, one with ``dilation`` 1 and one with the
    places far apart, the multi-axis layer of "MAXIM: Multi-Axis MLP for Image Processing" (Tu et al. 2022). M starts
    near zero and b at one.

    ratio: width of u and v together, over C.
    """

    cost: ClassVar[str] = "O(N d^2 + N w^r d)"

    def __init__(self, dim: int, window: int = 4, dilation: int = 1, ratio: float = 2.0, rank: int = 1) -> None:
        super().__init__()
        self.rank, self.window, self.dilation = rank, at_least("window", window, 1), at_least("dilation", dilation, 1)
        half = max(1, round(ratio * dim / 2))
        self.into, self.norm, self.out = nn.Linear(dim, 2 * half), nn.LayerNorm(half), nn.Linear(half, dim)
        places = window**rank
        self.weight = nn.Parameter(torch.randn(places, places) * 1e-2 / places)
        self.bias = nn.Parameter(torch.ones(places, 1))

    def mix(self, blocks: Float[Tensor, "B G P C"]) -> Float[Tensor, "B G P C"]:
        return self.weight @ blocks + self.bias

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        u, v = F.gelu(self.into(layout.clean(x))).chunk(2, -1)
        return self.out(u * over_blocks(self.norm(v), layout, self.window, self.dilation, self.mix))
