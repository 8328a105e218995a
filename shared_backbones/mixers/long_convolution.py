"""Convolutions as long as the lattice, with filters that are functions of the offset.

Shapes: B items, N tokens, C channels, *axes the lattice, *offsets its offsets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..layout import Layout
from .base import Mixer, at_least
from .convolution import DepthwiseConv


class ImplicitFilter(nn.Module):
    """h_c(o) = exp(-r_c sum_a |o_a|) MLP_c(features of o) for whole offsets o, at any number of them.

    Features of each axis: sines and cosines of o at ``waves`` periods from 4 to 4096 tokens. The MLP has sines as
    activations. The rates r_c are learned; they start spread so that the filters reach from 2 to ``reach`` tokens.
    """

    def __init__(self, dim: int, rank: int, waves: int = 8, hidden: int = 32, reach: float = 128.0) -> None:
        super().__init__()
        self.waves = waves
        self.mlp = nn.ModuleList([nn.Linear(2 * waves * rank, hidden), nn.Linear(hidden, hidden)])
        self.out = nn.Linear(hidden, dim)
        share = torch.arange(dim) / max(1, dim - 1)
        self.rate = nn.Parameter(-torch.log(2.0 * (reach / 2) ** share))  # its exponential is 1 / reach

    def forward(self, offsets: Sequence[Float[Tensor, "_"]]) -> Float[Tensor, "*offsets C"]:
        grid = torch.stack(torch.meshgrid(*offsets, indexing="ij"), -1)
        steps = torch.arange(self.waves, device=grid.device, dtype=grid.dtype) / max(1, self.waves - 1)
        angle = (grid[..., None] * (2 * math.pi / 4 * (4 / 4096) ** steps)).flatten(-2)
        y = torch.cat([angle.sin(), angle.cos()], -1)
        for layer in self.mlp:
            y = layer(y).sin()
        return self.out(y) * torch.exp(-self.rate.exp() * grid.abs().sum(-1, keepdim=True))


def long_convolution(
    x: Float[Tensor, "B *axes C"], taps: Float[Tensor, "*twice C"], axes: Sequence[int]
) -> Float[Tensor, "B *axes C"]:
    """y_i = sum_j h_(i-j) x_j by FFT over twice the extent; ``taps`` holds offsets 0 .. n-1, -n .. -1, per axis."""
    dims, double = tuple(range(1, 1 + len(axes))), tuple(2 * n for n in axes)
    bins = torch.fft.rfftn(x, s=double, dim=dims) * torch.fft.rfftn(taps, dim=tuple(range(len(axes))))
    y = torch.fft.irfftn(bins, s=double, dim=dims)
    for axis, n in enumerate(axes):
        y = y.narrow(1 + axis, 0, n)
    return y


class Hyena(Mixer):
    """z_1 = v; z_(k+1) = x_k * (h_k conv z_k + b_k * z_k) for k < n; y = W2 (x_n * z_n), v and all x_k = DWConv(W1 x).

    "Hyena Hierarchy: Towards Larger Convolutional Language Models" (Poli et al. 2023) on lattices of any rank as in
    "Multi-Dimensional Hyena for Spatial Inductive Bias" (Zimerman and Wolf 2024). Offsets count in tokens and run both
    ways along an axis, only back along a causal one.

    order: n, with n - 1 long convolutions. kernel: width of the short depthwise convolution. joint: the filter is a
    function of all offsets at once; without, the product of one function per axis. waves, hidden, reach: see
    :class:`ImplicitFilter`.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N log N d + N d^2)"

    def __init__(
        self,
        dim: int,
        order: int = 2,
        kernel: int = 3,
        joint: bool = True,
        waves: int = 8,
        hidden: int = 32,
        reach: float = 128.0,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.causal, self.rank, self.order = frozenset(causal_axes), rank, at_least("order", order, 2)
        self.into, self.out = nn.Linear(dim, (order + 1) * dim), nn.Linear(dim, dim)
        self.short = DepthwiseConv((order + 1) * dim, kernel, rank, self.causal)
        width = (order - 1) * dim
        self.filters = nn.ModuleList(
            ImplicitFilter(width, part, waves, hidden, reach) for part in ([rank] if joint else [1] * rank)
        )
        self.skip = nn.Parameter(torch.randn(order - 1, dim))

    def taps(self, axes: Sequence[int], like: Tensor) -> list[Float[Tensor, "*twice C"]]:
        """Every filter at all offsets of a lattice, zero ahead along causal axes."""
        kinds = like.dtype, like.device
        offsets = []
        for axis, n in enumerate(axes):
            at = torch.arange(n, dtype=kinds[0], device=kinds[1])
            offsets.append(at if axis in self.causal else torch.cat([at, at - n]))
        if len(self.filters) == 1:
            h = self.filters[0](offsets)
        else:  # one filter per axis, along that axis alone
            h = like.new_ones(())
            for axis, (one, at) in enumerate(zip(self.filters, offsets, strict=True)):
                shape = [-1 if a == axis else 1 for a in range(len(axes))]
                h = h * one([at]).reshape(*shape, self.skip.numel())
        pads = [0, 0]
        for axis in reversed(range(len(axes))):
            pads += [0, axes[axis] if axis in self.causal else 0]
        return list(F.pad(h, pads).chunk(self.order - 1, -1))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        z, *gates = self.short(self.into(layout.clean(x)), layout).chunk(self.order + 1, -1)
        wide = torch.promote_types(x.dtype, torch.float32)  # no FFT in half precision on CPU
        with torch.autocast(x.device.type, enabled=False):
            filters = self.taps(layout.axes, z.to(wide))
        for gate, taps, skip in zip(gates, filters, self.skip, strict=False):
            z = layout.clean(z)
            lattice = long_convolution(layout.fold(z.to(wide)), taps, layout.axes)
            z = gate * (layout.unfold(lattice).to(z.dtype) + skip * z)
        return self.out(gates[-1] * z)

    def state_size(self, n: int) -> int:
        return n * self.skip.numel() if self.causal else 0
