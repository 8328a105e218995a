"""Grouping: tokens -> groups by their place -> dense attention inside each group -> back.

Shapes: B items, N tokens, C channels, H heads, G groups, P queries and K keys in a group, T relative places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..blocks import whole_blocks
from ..errors import BadRequest, unknown
from ..layout import Layout
from .attend import Plan, by_extent, grouped, per_axis, product
from .base import Mixer, heads_of


class DynamicBias(nn.Module):
    """The number per relative place and head by a small network of the offset: linear, thrice LayerNorm-ReLU-linear.

    "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention" (Wang et al. 2022).
    """

    offsets: Tensor

    def __init__(self, dim: int, heads: int, reach: Sequence[int]) -> None:
        super().__init__()
        width = max(4, dim // 16)
        offsets = torch.cartesian_prod(*(torch.arange(1 - n, n) for n in reach)).reshape(-1, len(reach))
        self.register_buffer("offsets", offsets.to(torch.get_default_dtype()), persistent=False)
        layers: list[nn.Module] = [nn.Linear(len(reach), width)]
        for out in (width, width, heads):
            layers += [nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out)]
        self.layers = nn.Sequential(*layers)

    def forward(self) -> Float[Tensor, "T H"]:
        return self.layers(self.offsets)


BIASES = ("table", "dynamic", "none")


def relative_table(kind: str, dim: int, heads: int, reach: Sequence[int]) -> nn.Parameter | nn.Module | None:
    """A bias by name, to be read by :func:`entries`: a number per offset of -(reach - 1) .. reach - 1 places and head.

    Raises BadRequest for an unknown name.
    """
    if kind not in BIASES:
        raise unknown("relative bias", kind, BIASES)
    if kind == "dynamic":
        return DynamicBias(dim, heads, reach)
    return nn.Parameter(torch.randn(math.prod(2 * n - 1 for n in reach), heads) * 0.02) if kind == "table" else None


def entries(table: nn.Parameter | nn.Module | None) -> Float[Tensor, "T H"] | None:
    """The numbers of a relative bias as they stand now."""
    return table() if isinstance(table, nn.Module) else table


def relative_index(sizes: Sequence[int], halo: Sequence[int]) -> Int[Tensor, "P K"]:
    """Where the offset of query i from key j stands in a table of prod(2 (size + halo) - 1) entries.

    The queries of a group fill ``sizes`` places, its keys reach ``halo`` places further on every side.
    """
    reach = [n + h for n, h in zip(sizes, halo, strict=True)]
    offsets = [
        torch.arange(n)[:, None] - torch.arange(-h, n + h) + r - 1 for n, h, r in zip(sizes, halo, reach, strict=True)
    ]
    return product(offsets, [2 * r - 1 for r in reach])


def ordered(queries: Int[Tensor, "g p"], keys: Int[Tensor, "g k"], causal: bool) -> Bool[Tensor, "g p k"]:
    """Keys not after the query, or all of them where the axis is not causal."""
    behind = keys[:, None, :] <= queries[:, :, None]
    return behind if causal else torch.ones_like(behind)


def blocks_plan(n: int, size: int, shift: int, halo: int, causal: bool, device: torch.device) -> Plan:
    """Blocks of ``size`` places with borders at ``shift`` modulo ``size``; their keys reach ``halo`` places further."""
    front = -shift % size
    count = whole_blocks(n + front, size)
    starts = torch.arange(count, device=device)[:, None] * size - front
    queries = starts + torch.arange(size, device=device)
    keys = starts + torch.arange(-halo, size + halo, device=device) if halo else queries
    whole = not torch.compiler.is_exporting() and not causal and halo == front == 0 and n % size == 0
    seen = None if whole else ordered(queries, keys, causal) & ((keys >= 0) & (keys < n))[:, None]
    place = torch.arange(n, device=device) + front
    held = queries.clamp(0, n - 1)
    return Plan(held, keys.clamp(0, n - 1) if halo else held, seen, place // size, place % size)


def grid_plan(n: int, size: int, causal: bool, device: torch.device) -> Plan:
    """Groups of ``size`` places that stand ceil(n / size) apart, over the whole axis."""
    apart = whole_blocks(n, size)
    queries = torch.arange(apart, device=device)[:, None] + apart * torch.arange(size, device=device)
    whole = not torch.compiler.is_exporting() and not causal and n % size == 0
    seen = None if whole else ordered(queries, queries, causal) & (queries < n)[:, None]
    place, held = torch.arange(n, device=device), queries.clamp_max(n - 1)
    return Plan(held, held, seen, place % apart, place // apart)


class Window(Mixer):
    """softmax(Q K^T / sqrt(D) + bias of the relative place) V within windows of window^rank tokens.

    "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (Liu et al. 2021). A shifted grid of
    windows has its borders at ``shift`` instead of 0 and partial windows at the edges, where Swin wraps around and
    masks: the same pairs meet, and a border stays where it is whatever is padded behind. Alternate ``shift: 0`` with
    ``shift: window // 2``.

    halo: the keys of a window reach so many tokens further on every side: "Scaling Local Self-Attention for Parameter
    Efficient Visual Backbones" (Vaswani et al. 2021), without that paper's keys of zeros outside of the lattice.
    bias: "table", "dynamic" (:class:`DynamicBias`) or "none". window, shift and halo: for all axes, or one per axis.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    index: Tensor
    cost: ClassVar[str] = "O(N d^2 + N w^r d)"

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        window: int | tuple[int, ...] = 7,
        shift: int | tuple[int, ...] = 0,
        halo: int | tuple[int, ...] = 0,
        bias: str = "table",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.rank = heads_of(dim, heads), frozenset(causal_axes), rank
        self.window = per_axis("window", window, rank, 1)
        self.shift, self.halo = per_axis("shift", shift, rank, 0), per_axis("halo", halo, rank, 0)
        if any(s >= n for s, n in zip(self.shift, self.window, strict=True)):
            raise BadRequest(f"shift must lie in 0 .. window - 1, got shift={shift} and window={window}")
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        reach = [n + h for n, h in zip(self.window, self.halo, strict=True)]
        self.table = relative_table(bias, dim, self.heads, reach)
        self.register_buffer("index", relative_index(self.window, self.halo), persistent=False)

    def plans(self, axes: Sequence[int], device: torch.device) -> list[Plan]:
        """The groups along every axis."""
        options = zip(axes, self.window, self.shift, self.halo, strict=True)
        return [blocks_plan(*o, causal=a in self.causal, device=device) for a, o in enumerate(options)]

    def mix(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        """Attention inside the groups of one lattice."""
        bias = entries(self.table)
        if bias is not None:
            bias = bias.index_select(0, self.index.flatten()).T.reshape(1, self.heads, 1, *self.index.shape)
        return self.out(grouped(self.qkv(x), layout, self.plans(layout.axes, x.device), self.heads, bias))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return self.mix(layout.clean(x), layout)


class Grid(Window):
    """Attention within grids of size^rank tokens that stand ceil(n / size) apart on an axis of n: global, but sparse.

    "MaxViT: Multi-Axis Vision Transformer" (Tu et al. 2022), after a layer of ``window``. The long-distance attention
    of "CrossFormer" (Wang et al. 2022) takes every i-th token: a grid of size n / i. Each item has the grids of its own
    extent.
    """

    exports_mask: ClassVar[bool] = False  # items are grouped by their size, which the mask decides

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        size: int | tuple[int, ...] = 7,
        bias: str = "table",
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__(dim, heads, size, bias=bias, causal_axes=causal_axes, rank=rank)

    def plans(self, axes: Sequence[int], device: torch.device) -> list[Plan]:
        """The groups along every axis."""
        return [grid_plan(n, self.window[a], a in self.causal, device) for a, n in enumerate(axes)]

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return by_extent(self.mix, layout.clean(x), layout)
