"""Wavelets: blocks of 2^rank places -> one low band and 2^rank - 1 oriented high bands -> gate -> inverse.

Shapes: B items, N tokens, C channels, G blocks, P = 2^rank bands or places of a block, K groups of C / K channels.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import from_blocks, to_blocks, whole_blocks
from ..layout import Layout
from ..positions import read_table
from .base import Mixer, at_least, heads_of


def haar(rank: int, like: Tensor) -> Float[Tensor, "P P"]:
    """The orthogonal Haar transform of a block of 2 places per axis: row 0 is the low band, it is its own inverse."""
    one, matrix = like.new_tensor([[1.0, 1.0], [1.0, -1.0]]), like.new_ones(1, 1)
    for _ in range(rank):
        matrix = torch.kron(matrix, one)
    return matrix / 2 ** (rank / 2)


class Wavelet(Mixer):
    """y = inverse(T * low, E(high)) of a Haar pyramid of ``levels``: a table over places weighs the lowest band, and
    each high band goes through E(h) = W2 relu(W1 h + b1) + b2, block-diagonal over K groups of channels.

    "Scattering Vision Transformer: Spectral Mixing Matters" (Patro and Agneeswaran 2023) with the Haar transform, an
    orthogonal one on blocks of 2 places per axis, in place of the dual-tree complex one: no oversampling, and exact at
    every extent and mask. E is shared by all bands of all levels, as there by all orientations. T is stored at ``size``
    places per axis and stretched over each item's own extent.

    size: places of T. groups: K.
    """

    cost: ClassVar[str] = "O(N d^2)"

    def __init__(self, dim: int, size: int = 14, levels: int = 1, groups: int | None = None, rank: int = 1) -> None:
        super().__init__()
        self.rank, self.levels, self.groups = rank, at_least("levels", levels, 1), heads_of(dim, groups)
        width = dim // self.groups
        self.table = nn.Parameter(torch.ones(*(at_least("size", size, 1),) * rank, dim))
        self.weight1, self.weight2 = (nn.Parameter(torch.randn(self.groups, width, width) * 0.02) for _ in range(2))
        self.bias1, self.bias2 = (nn.Parameter(torch.randn(self.groups, width) * 0.02) for _ in range(2))

    def high(self, bands: Float[Tensor, "B G Q C"]) -> Float[Tensor, "B G Q C"]:
        """E of the high bands."""
        h = bands.unflatten(-1, (self.groups, -1))
        h = F.relu(torch.einsum("bgqkc,kcd->bgqkd", h, self.weight1) + self.bias1)
        return (torch.einsum("bgqkc,kcd->bgqkd", h, self.weight2) + self.bias2).flatten(-2)

    def pyramid(self, x: Float[Tensor, "B N C"], layout: Layout, levels: int) -> Float[Tensor, "B N C"]:
        """The whole of one level and all below it: transform, gate, inverse."""
        if levels == 0:
            return x * read_table(self.table, layout).to(x.dtype)
        sizes, matrix = (2,) * layout.rank, haar(layout.rank, x)
        bands = matrix @ to_blocks(layout.fold(x), sizes)
        mask = None if layout.mask is None else to_blocks(layout.fold(layout.mask[..., None]), sizes).any(2)[..., 0]
        axes = tuple(whole_blocks(n, 2) for n in layout.axes)
        coarse = Layout(axes, mask=mask)
        low = self.pyramid(bands[:, :, 0], coarse, levels - 1)
        bands = matrix @ torch.cat([low[:, :, None], self.high(bands[:, :, 1:])], 2)
        return layout.unfold(from_blocks(bands, layout.axes, sizes))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.pyramid(layout.clean(x), layout, self.levels)
