"""Neighbourhoods on lattices: every token attends to the window^rank tokens nearest to it.

Queries are taken in tiles and meet all keys that any of them sees, as one dense product under a mask; time and memory
grow linearly, and every step has a gradient on every device.

Shapes: B items, N tokens, C channels, H heads, G tiles, S kinds of tiles, P queries and K keys of a tile; n places of
one axis with g tiles (s kinds) of p queries and k keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..blocks import whole_blocks
from ..errors import BadRequest
from ..layout import Layout
from .attend import Plan, by_extent, grouped, per_axis, product, unseen
from .base import Mixer, heads_of
from .grouping import entries, relative_table

TILE = {1: 32, 2: 8, 3: 4}  # queries per axis of a tile, by rank: large enough for dense products, few keys in vain


@dataclass(frozen=True)
class Neighbours:
    """The tiles along one axis. Tiles of one kind see alike: those in the middle all, those near a border not.

    plan: queries and keys of each tile. kind: of each tile. seen, apart: by kind, which query sees which key, and where
    their offset stands among 2 window - 1.
    """

    plan: Plan
    kind: Int[Tensor, "g"]
    seen: Bool[Tensor, "s p k"]
    apart: Int[Tensor, "s p k"]


def neighbours(n: int, window: int, dilation: int, stride: int, causal: bool, tile: int, like: Tensor) -> Neighbours:
    """Tiles of an axis of n places.

    Places that are equal modulo ``dilation`` form strands, each a lattice of its own. On a strand of m places the
    window of place i is ``window`` places from i - window // 2 on, shifted inwards at both ends (all m where the
    strand is shorter). Runs of ``stride`` places share the window of their middle place. On a causal axis windows end
    with their run and are cut off at the start, and nothing after i is seen.
    """
    dynamic = torch.compiler.is_exporting()  # then n is unknown; a trace takes a single tile for fixed, so small ones
    longest = whole_blocks(n, dilation)
    tile = max(1, (min(tile, 4) if dynamic else tile) // stride) * stride
    tile = tile if dynamic else min(tile, whole_blocks(longest, stride) * stride)
    span = tile - stride + window + (dilation > 1 and tile == stride)  # strands differ in length by one
    span = span if dynamic else min(span, longest)

    def steps(count: int) -> Tensor:
        return torch.arange(count, device=like.device)

    begin = stride - window if causal else stride // 2 - window // 2  # of a run's window, before it is shifted
    tiles, strand = steps(whole_blocks(longest, tile)) * tile, steps(dilation)[:, None]
    first = (tiles + begin).clamp_max(longest - span).clamp_min(0)  # key of each tile
    left = (n - strand + dilation - 1) // dilation - first  # places from the first key to the end of its strand

    def spread(start: Tensor, width: int) -> Tensor:
        """Places on the axis, (strands * tiles, width)."""
        at = (start[:, None] + steps(width)) * dilation + strand[..., None]
        return at.flatten(0, 1).clamp_max(n - 1)

    state = torch.stack([(tiles - first).expand_as(left), left.clamp_max(span)], -1).flatten(0, 1)
    kinds, kind = (state, steps(state.shape[0])) if dynamic else torch.unique(state, dim=0, return_inverse=True)
    ahead, left = kinds[:, 0, None], kinds[:, 1, None]
    query, key = ahead + steps(tile), steps(span)  # counted from the first key
    start = ahead + steps(tile) // stride * stride + begin
    start = (start if causal else torch.minimum(start, left - window)).clamp_min(0)[..., None]
    seen = (key >= start) & (key < start + window) & (key < left[..., None])
    if causal:
        seen = seen & (key <= query[..., None])
    place = steps(n)
    group = place % dilation * tiles.shape[0] + place // dilation // tile
    return Neighbours(
        Plan(spread(tiles, tile), spread(first, span), None, group, place // dilation % tile),
        kind,
        seen,
        (query[..., None] - key + window - 1).clamp(0, 2 * window - 2),
    )


def spread_table(
    axes: Sequence[Neighbours], window: Sequence[int], table: Float[Tensor, "T H"]
) -> Float[Tensor, "H S P K"]:
    """The numbers of a relative table for every kind of tile, looked up axis by axis: the gradient then adds up long
    slices instead of single entries."""
    values = table.T.reshape(-1, *(2 * w - 1 for w in window))
    for a, axis in enumerate(axes, 1):
        values = values.index_select(a, axis.apart.flatten())
    rank = len(axes)
    values = values.reshape(-1, *(n for axis in axes for n in axis.apart.shape))  # (H, s, p, k, s, p, k ...)
    values = values.permute(0, *(i + 3 * a for i in (1, 2, 3) for a in range(rank)))
    sizes = (math.prod(sizes) for sizes in zip(*(axis.apart.shape for axis in axes), strict=True))
    return values.reshape(-1, *sizes)


class Neighborhood(Mixer):
    """softmax(Q K^T / sqrt(D) + bias of the relative place) V over the window^rank tokens nearest to each token.

    "Neighborhood Attention Transformer" (Hassani et al. 2023); sparse over ``dilation`` times the reach as "Dilated
    Neighborhood Attention Transformer" (Hassani and Shi 2022); in runs of ``stride`` tokens that share a window as
    "Generalized Neighborhood Attention" (Hassani et al. 2025): ``stride`` 1 slides, ``stride: window`` is blocks. At
    the ends of the lattice, each item's own, windows are shifted inwards and never padded.

    window, dilation, stride: for all axes, or one per axis. bias: as of ``window``.
    tile: queries per axis that are taken together; it changes the speed only.
    """

    causal_axes: ClassVar[frozenset[int]] = frozenset({0, 1, 2})
    cost: ClassVar[str] = "O(N d^2 + N w^r d)"
    exports_mask: ClassVar[bool] = False  # items are grouped by their size, which the mask decides

    def __init__(
        self,
        dim: int,
        heads: int | None = None,
        window: int | tuple[int, ...] = 5,
        dilation: int | tuple[int, ...] = 1,
        stride: int | tuple[int, ...] = 1,
        bias: str = "table",
        tile: int | tuple[int, ...] | None = None,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.rank = heads_of(dim, heads), frozenset(causal_axes), rank
        self.window, self.dilation = per_axis("window", window, rank, 1), per_axis("dilation", dilation, rank, 1)
        self.stride = per_axis("stride", stride, rank, 1)
        self.tile = per_axis("tile", TILE[rank] if tile is None else tile, rank, 1)
        if any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise BadRequest(f"stride must not exceed window, got stride={stride} and window={window}")
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.table = relative_table(bias, dim, self.heads, self.window)

    def mix(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        """Attention on one lattice, which ends where its axes end."""
        options = zip(layout.axes, self.window, self.dilation, self.stride, strict=True)
        axes = [neighbours(*o, a in self.causal, self.tile[a], x) for a, o in enumerate(options)]
        table = entries(self.table)
        bias = unseen(product([a.seen for a in axes]), x.dtype if table is None else table.dtype)[None]
        if table is not None:
            bias = bias + spread_table(axes, self.window, table)
        bias = bias.index_select(1, product([a.kind for a in axes], [a.seen.shape[0] for a in axes]))[None]
        return self.out(grouped(self.qkv(x), layout, [a.plan for a in axes], self.heads, bias))

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        self.check(layout)
        return by_extent(self.mix, layout.clean(x), layout)
