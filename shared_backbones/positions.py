"""Where tokens stand: learned tables that fit any size, rotations and biases of real coordinates.

Sinusoids of real coordinates are :func:`~shared_backbones.stems.sinusoidal`.

Shapes: B items, N tokens, C channels, H heads, D channels of a head, k coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import BadRequest
from .layout import Layout, extents


def coordinates(layout: Layout, like: Tensor) -> Float[Tensor, "B N k"]:
    """The real positions of the tokens (zeros at masked ones), or else their places on the lattice, one per axis."""
    if layout.positions is not None:
        return layout.clean(layout.positions)
    grid = torch.meshgrid(*(torch.arange(n, device=like.device) for n in layout.axes), indexing="ij")
    places = torch.stack([g.flatten() for g in grid], -1).to(torch.promote_types(like.dtype, torch.float32))
    return places.expand(like.shape[0], -1, -1)


def hats(at: Float[Tensor, "*n"], size: int) -> Float[Tensor, "*n size"]:
    """Weights of linear interpolation at real places of a table of ``size`` entries, held at its ends."""
    entries = torch.arange(size, device=at.device, dtype=at.dtype)
    return (1 - (at.clamp(0, size - 1)[..., None] - entries).abs()).clamp_min(0)


class LearnedPositions(nn.Module):
    """x + a learned vector per place, stored for ``size`` places per axis and interpolated to other extents.

    At the stored size entry p belongs to place p ("An Image is Worth 16x16 Words", Dosovitskiy et al. 2021); an extent
    n reads place p at (p + 1/2) size / n - 1/2. The extent is each item's own, so padding moves nothing.
    """

    def __init__(self, dim: int, size: int, rank: int = 1) -> None:
        super().__init__()
        self.size, self.rank = size, rank
        self.table = nn.Parameter(torch.randn(*(size,) * rank, dim) * 0.02)

    def forward(self, x: Float[Tensor, "B N C"], layout: Layout) -> Float[Tensor, "B N C"]:
        if layout.rank != self.rank:
            raise BadRequest(f"these positions were learned on rank {self.rank}, got axes {layout.axes}")
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if layout.mask is None else layout.mask
        sizes = extents(layout, mask).to(self.table.dtype)
        y = self.table.expand(x.shape[0], *self.table.shape)
        for axis, n in enumerate(layout.axes):
            place = torch.arange(n, device=x.device, dtype=self.table.dtype) + 0.5
            weight = hats(place * self.size / sizes[:, axis, None] - 0.5, self.size)  # (B, n, size)
            y = torch.einsum("bps,bs...->bp...", weight, y.movedim(1 + axis, 1)).movedim(1, 1 + axis)
        return x + y.flatten(1, layout.rank).to(x.dtype)


def rotary(
    x: Float[Tensor, "B H N D"], at: Float[Tensor, "B N k"], shortest: float = 2 * math.pi, longest: float = 6e4
) -> Float[Tensor, "B H N D"]:
    """Rotates pairs of channels by angles 2 pi p / period, so that products of q and k see differences of p alone.

    "RoFormer" (Su et al. 2024), on real coordinates in their own unit. Each of k coordinates turns an equal share of
    the channels, with periods spaced geometrically from ``shortest`` to ``longest``; channels beyond stay as they are.
    Raises BadRequest where a head is too narrow for the coordinates.
    """
    k = at.shape[-1]
    pairs = x.shape[-1] // (2 * k)  # of each coordinate
    if pairs == 0:
        raise BadRequest(f"rotary needs at least {2 * k} channels a head for {k} coordinates, got {x.shape[-1]}")
    wide = torch.promote_types(at.dtype, torch.float32)
    steps = torch.arange(pairs, device=x.device, dtype=wide) / pairs
    angle = (at.to(wide)[..., None] * (2 * math.pi / shortest) * (shortest / longest) ** steps).flatten(-2)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd, rest = x[..., : k * pairs], x[..., k * pairs : 2 * k * pairs], x[..., 2 * k * pairs :]
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos, rest], -1)


def alibi(at: Float[Tensor, "B N k"], heads: int) -> Float[Tensor, "B H N N"]:
    """-m_h |p_i - p_j| with slopes m_h = 2^(-8 h / H), h = 1 .. H, to be added to scores; coordinates add up.

    "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation" (Press et al. 2022).
    """
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=at.device, dtype=at.dtype) / heads)
    return -slopes[:, None, None] * (at[:, :, None] - at[:, None]).abs().sum(-1)[:, None]


def resize_relative(table: Float[Tensor, "T H"], rank: int, window: int) -> Float[Tensor, "U H"]:
    """A table of relative places, (2 w - 1)^rank entries, interpolated linearly to another window.

    The farthest offset of the new window reads the farthest of the old one. Raises BadRequest where the table is none.
    """
    old = round(table.shape[0] ** (1 / rank))
    if old**rank != table.shape[0] or old % 2 == 0:
        raise BadRequest(f"a relative table of rank {rank} has (2 w - 1)^{rank} entries, got {table.shape[0]}")
    new = 2 * window - 1
    offsets = torch.arange(new, device=table.device, dtype=table.dtype)
    weight = hats(offsets * (old - 1) / max(1, new - 1) if window > 1 else offsets + (old - 1) / 2, old)
    grid = table.reshape(*(old,) * rank, -1)
    for axis in range(rank):
        grid = torch.tensordot(weight, grid.movedim(axis, 0), dims=1).movedim(0, axis)
    return grid.flatten(0, rank - 1)


def resize_relative_tables(state: dict[str, Tensor], names: Sequence[str], rank: int, window: int) -> dict[str, Tensor]:
    """A state dict whose named relative tables fit another window: load it into a model built with that window."""
    return {key: resize_relative(t, rank, window) if key in names else t for key, t in state.items()}


__all__ = ["LearnedPositions", "alibi", "coordinates", "resize_relative", "resize_relative_tables", "rotary"]
