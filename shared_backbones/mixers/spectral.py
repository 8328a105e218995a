"""Spectral mixers: transform -> gate -> inverse.

Shapes: B items, C channels, *axes the lattice, *bins its frequencies (the last axis holds the non-negative half).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from ..layout import Layout, extents
from ..positions import hats
from .base import Mixer, at_least, heads_of


def at_true_size(
    transform: Callable[..., Tensor], x: Float[Tensor, "B N C"], layout: Layout, *per_item: Tensor
) -> Float[Tensor, "B N C"]:
    """``transform`` of every item on the lattice of its own extent, in at least float32: (b, *axes, C) -> the same.

    Items of one extent go together; ``per_item`` tensors, one row per item, are handed on beside them. Gaps inside the
    extent count as zeros.
    """
    lattice = layout.fold(layout.clean(x))
    lattice = lattice.to(torch.promote_types(x.dtype, torch.float32))  # no FFT in half precision on CPU
    if layout.mask is None:
        return layout.unfold(transform(lattice, *per_item)).to(x.dtype)
    kinds, kind = torch.unique(extents(layout, layout.mask), dim=0, return_inverse=True)
    order, counts, parts = torch.argsort(kind, stable=True), torch.bincount(kind).tolist(), []
    groups = zip(*(t.index_select(0, order).split(counts) for t in (lattice, *per_item)), strict=True)
    for (group, *own), true in zip(groups, kinds.tolist(), strict=True):
        pads = [0, 0]
        for axis in reversed(range(len(true))):
            pads += [0, group.shape[1 + axis] - true[axis]]
            group = group.narrow(1 + axis, 0, true[axis])
        parts.append(F.pad(transform(group, *own), pads))
    return layout.unfold(torch.cat(parts).index_select(0, torch.argsort(order))).to(x.dtype)


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

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return at_true_size(self.filtered, x, layout)


def half_turns(n: int, like: Tensor) -> Complex[Tensor, "n"]:
    """exp(i pi k / 2n) for k = 0 .. n - 1: what turns a Fourier transform of 2n mirrored places into a cosine one."""
    angle = torch.arange(n, device=like.device, dtype=like.dtype) * (math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle)


def cosine(x: Float[Tensor, "*lattice"], axis: int) -> Float[Tensor, "*lattice"]:
    """X_k = sum_j x_j cos(pi (j + 1/2) k / n) along one axis (DCT-II), in n log n."""
    n, x = x.shape[axis], x.movedim(axis, -1)
    bins = torch.fft.rfft(torch.cat([x, x.flip(-1)], -1)).narrow(-1, 0, n)
    return ((bins * half_turns(n, x).conj()).real / 2).movedim(-1, axis)


def inverse_cosine(x: Float[Tensor, "*lattice"], axis: int) -> Float[Tensor, "*lattice"]:
    """The inverse of :func:`cosine`."""
    n, x = x.shape[axis], x.movedim(axis, -1)
    bins = F.pad(torch.view_as_real(2 * x * half_turns(n, x)), (0, 0, 0, 1))  # bin n of the mirrored places is 0
    return torch.fft.irfft(torch.view_as_complex(bins), n=2 * n).narrow(-1, 0, n).movedim(-1, axis)


class Cosine(Mixer):
    """y = W2 DCT^-1(g(x) * DCT(W1 x)), the weights g of the frequencies made from the content.

    "Dynamic Spectrum Mixer for Visual Recognition" (Hu and Hu 2023). g = prod over axes of sigmoid(U_a gelu(V m)), m
    the mean of the real tokens: for every group of channels one weight per band of each axis, interpolated linearly
    over frequency (cycles per token), so that it serves any size. Every item is transformed at its own extent.

    bands: weights per axis, from the mean to the highest frequency. groups: of channels that share their weights.
    ratio: width of V over C.
    """

    cost: ClassVar[str] = "O(N log N d + N d^2)"
    exports_mask: ClassVar[bool] = False  # as of Fourier

    def __init__(self, dim: int, bands: int = 8, groups: int | None = None, ratio: float = 0.25, rank: int = 1) -> None:
        super().__init__()
        self.bands, self.groups, self.rank = at_least("bands", bands, 2), heads_of(dim, groups), rank
        self.into, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        hidden = max(1, round(ratio * dim))
        self.read, self.weigh = nn.Linear(dim, hidden), nn.Linear(hidden, rank * self.bands * self.groups)

    def weights(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B rank bands G"]:
        """g of every axis, by band and group."""
        mean = layout.clean(x).sum(1) / layout.counts(x)[:, 0]
        g = self.weigh(F.gelu(self.read(mean))).sigmoid()
        return g.unflatten(-1, (self.rank, self.bands, self.groups))

    def gated(
        self, lattice: Float[Tensor, "B *axes C"], weights: Float[Tensor, "B rank bands G"]
    ) -> Float[Tensor, "B *axes C"]:
        axes = lattice.shape[1:-1]
        for axis in range(len(axes)):
            lattice = cosine(lattice, 1 + axis)
        lattice = lattice.unflatten(-1, (self.groups, -1))
        for axis, n in enumerate(axes):
            place = torch.arange(n, device=lattice.device, dtype=lattice.dtype) * ((self.bands - 1) / n)
            g = hats(place, self.bands) @ weights[:, axis].to(lattice.dtype)  # (B, n, G)
            lattice = lattice * g.reshape(-1, *(n if a == axis else 1 for a in range(len(axes))), self.groups, 1)
        lattice = lattice.flatten(-2)
        for axis in range(len(axes)):
            lattice = inverse_cosine(lattice, 1 + axis)
        return lattice

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        values = self.into(layout.clean(x))
        return self.out(at_true_size(self.gated, values, layout, self.weights(x, layout)))
