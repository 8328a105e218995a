"""Spectral mixers: transform -> gate -> inverse.

Shapes: B items, C channels, *axes the lattice, *bins its frequencies (the last axis holds the non-negative half).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from ..layout import Layout, extents
from .base import Mixer, at_least


class Fourier(Mixer):
    """y = F^-1(K * F(x)) with one learned complex filter K per channel over all lattice axes.

    "Global Filter Networks for Image Classification" (Rao et al. 2021), the spectral layer of "SpectFormer" (Patro et
    al. 2023). K is stored at ``size`` places per axis and interpolated linearly over frequency (cycles per token) for
    lattices of other sizes. Under a mask every item is transformed at its own extent, so padding changes nothing;
    gaps inside the extent count as zeros.
    """

    cost: ClassVar[str] = "O(N log N d)"
    exports_mask: ClassVar[bool] = False  # items are grouped by their size, which the mask decides

    def __init__(self, dim: int, size: int = 16, rank: int = 1) -> None:
        super().__init__()
        self.size, self.rank = at_least("size", size, 2), rank
        self.filter = nn.Parameter(torch.randn(*(size,) * (rank - 1), size // 2 + 1, dim, 2) * 0.02)

    def gate(self, axes: Sequence[int]) -> Complex[Tensor, "*bins C"]:
        """The filter at the frequencies of a lattice of ``axes``."""
        k: Tensor = self.filter
        last = len(axes) - 1
        for axis, n in enumerate(axes):
            at = torch.arange(n // 2 + 1 if axis == last else n, device=k.device) * self.size
            low = at // n  # bin j of n lies at j * size / n of the stored bins
            share = (at - low * n).to(k.dtype) / n
            high = (low + 1).clamp_max(self.size // 2) if axis == last else (low + 1) % self.size
            low = low.clamp_max(k.shape[axis] - 1)
            share = share.reshape(-1, *(1,) * (k.ndim - axis - 1))
            k = k.index_select(axis, low) * (1 - share) + k.index_select(axis, high) * share
        return torch.view_as_complex(k)

    def filtered(self, lattice: Float[Tensor, "B *axes C"]) -> Float[Tensor, "B *axes C"]:
        axes = lattice.shape[1:-1]
        dims = tuple(range(1, 1 + len(axes)))
        return torch.fft.irfftn(torch.fft.rfftn(lattice, dim=dims) * self.gate(axes), s=axes, dim=dims)

    def ragged(self, lattice: Float[Tensor, "B *axes C"], sizes: Int[Tensor, "B rank"]) -> Float[Tensor, "B *axes C"]:
        """Items of one true size are cut out, filtered together and padded back."""
        kinds, kind = torch.unique(sizes, dim=0, return_inverse=True)
        order = torch.argsort(kind, stable=True)
        parts = []
        groups = lattice.index_select(0, order).split(torch.bincount(kind).tolist())
        for group, true in zip(groups, kinds.tolist(), strict=True):
            pads = [0, 0]
            for axis in reversed(range(len(true))):
                pads += [0, group.shape[1 + axis] - true[axis]]
                group = group.narrow(1 + axis, 0, true[axis])
            parts.append(F.pad(self.filtered(group), pads))
        return torch.cat(parts).index_select(0, torch.argsort(order))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        lattice = layout.fold(layout.clean(x))
        lattice = lattice.to(torch.promote_types(x.dtype, torch.float32))  # no FFT in half precision on CPU
        y = self.filtered(lattice) if layout.mask is None else self.ragged(lattice, extents(layout, layout.mask))
        return layout.unfold(y).to(x.dtype)
