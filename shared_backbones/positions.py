"""Where tokens stand: learned tables that fit any size, rotations and biases of real coordinates.

What a stem adds to tokens is :class:`LearnedPositions`; what attention knows of places is a :class:`Position`, by its
name in ``POSITIONS``.

Sinusoids of real coordinates are :func:`~shared_backbones.stems.sinusoidal`.

Shapes: B items, N tokens, C channels, H heads, D channels of a head, k coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .errors import BadRequest, unknown
from .layout import Layout, extents
from .options import check_options, options_of


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


def read_table(table: Float[Tensor, "*sizes C"], layout: Layout) -> Float[Tensor, "B N C"]:
    """What a table of places holds for each token, the table stretched over the item's own extent.

    Linear interpolation: of ``size`` entries along an axis of extent n, place p reads entry (p + 1/2) size / n - 1/2.
    B is 1 where nothing is masked.
    """
    mask = layout.mask
    if mask is None:
        mask = torch.ones(1, layout.size, dtype=torch.bool, device=table.device)
    sizes = extents(layout, mask).to(table.dtype)
    y = table.expand(mask.shape[0], *table.shape)
    for axis, n in enumerate(layout.axes):
        size = table.shape[axis]
        place = torch.arange(n, device=table.device, dtype=table.dtype) + 0.5
        weight = hats(place * size / sizes[:, axis, None] - 0.5, size)  # (B, n, size)
        y = torch.einsum("bps,bs...->bp...", weight, y.movedim(1 + axis, 1)).movedim(1, 1 + axis)
    return y.flatten(1, layout.rank)


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
        return x + read_table(self.table, layout).to(x.dtype)


def rotary(
    x: Float[Tensor, "B H N D"], at: Float[Tensor, "#B N k"], shortest: float = 2 * math.pi, longest: float = 6e4
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


class Position(nn.Module):
    """Attention without places. Its kinds turn queries and keys, or add to the scores, or both.

    heads, width: of the attention, width being the channels of a query per head.
    """

    lattice: ClassVar[bool] = False  # whether it stands on lattices only
    places: ClassVar[bool] = False  # whether it reads coordinates, which a set must then carry
    biased: ClassVar[bool] = False  # whether it adds to the scores
    rank: int | None = None  # the one rank that its parameters serve

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads

    def turn(
        self, q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], layout: Layout
    ) -> tuple[Float[Tensor, "B H N D"], Float[Tensor, "B H N D"]]:
        """Queries and keys that know where they stand."""
        return q, k

    def bias(self, layout: Layout, like: Tensor) -> Float[Tensor, "#B H N N"] | None:
        """What is added to the score of query i and key j."""
        return None

    def at(self, layout: Layout, like: Tensor) -> Float[Tensor, "#B N k"]:
        """Coordinates, for all items alike where they are places on the lattice."""
        if layout.positions is None and not layout.ordered:
            raise BadRequest(f"position {type(self).__name__.lower()!r} of a set needs Layout.positions, got None")
        return coordinates(layout, like if layout.positions is not None else like[:1])


class Rotary(Position):
    """q and k turned by :func:`rotary`, with periods from ``shortest`` to ``longest`` in the unit of the positions."""

    places: ClassVar[bool] = True

    def __init__(
        self, heads: int, width: int, shortest: float = 2 * math.pi, longest: float = 6e4, rank: int = 1
    ) -> None:
        super().__init__(heads, width)
        if width < 2 * rank:
            raise BadRequest(
                f"rotary needs at least {2 * rank} channels a head on a lattice of rank {rank}, got {width}"
            )
        if not 0 < shortest < longest:
            raise BadRequest(f"rotary needs 0 < shortest < longest, got shortest={shortest} and longest={longest}")
        self.shortest, self.longest = shortest, longest

    def turn(
        self, q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], layout: Layout
    ) -> tuple[Float[Tensor, "B H N D"], Float[Tensor, "B H N D"]]:
        at = self.at(layout, q)
        return rotary(q, at, self.shortest, self.longest), rotary(k, at, self.shortest, self.longest)


class Alibi(Position):
    """Scores fall by :func:`alibi` with distance; ``unit`` is the distance that counts as one step."""

    places: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def __init__(self, heads: int, width: int, unit: float = 1.0) -> None:
        super().__init__(heads, width)
        if unit <= 0:
            raise BadRequest(f"unit must be positive, got {unit}")
        self.unit = unit

    def bias(self, layout: Layout, like: Tensor) -> Float[Tensor, "#B H N N"] | None:
        return alibi(self.at(layout, like) / self.unit, self.heads)


class Table(Position):
    """A learned number per head and relative place, stored for ``size`` places per axis: (2 size - 1)^rank of them.

    "Swin Transformer" (Liu et al. 2021); ``symmetric`` stores one for both signs of an offset, size^rank of them, as
    "LeViT" (Graham et al. 2021). An item of another extent n reads offset o at o (size - 1) / (n - 1): its farthest
    tokens read the farthest entry, and the stored size reads the table as it is. Along a causal axis, whose end a token
    must not know, offsets are read as they are, and those beyond the table share its last entry.
    """

    lattice: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def __init__(
        self,
        heads: int,
        width: int,
        size: int = 8,
        symmetric: bool = False,
        causal_axes: tuple[int, ...] = (),
        rank: int = 1,
    ) -> None:
        super().__init__(heads, width)
        if size < 1:
            raise BadRequest(f"size must be at least 1, got {size}")
        self.size, self.rank, self.symmetric, self.causal = size, rank, symmetric, frozenset(causal_axes)
        self.table = nn.Parameter(torch.randn(heads, *(size if symmetric else 2 * size - 1,) * rank) * 0.02)

    def weights(self, axis: int, n: int, extent: Int[Tensor, "B"]) -> Float[Tensor, "B U S"]:
        """How each offset 1 - n .. n - 1 along an axis reads the stored entries."""
        read = torch.arange(1 - n, n, device=extent.device, dtype=self.table.dtype).expand(extent.shape[0], -1)
        if axis not in self.causal:
            read = read * (self.size - 1) / (extent[:, None] - 1).clamp_min(1)
        stored = self.table.shape[1]
        return hats(read.abs() if self.symmetric else read + (self.size - 1), stored)

    def bias(self, layout: Layout, like: Tensor) -> Float[Tensor, "#B H N N"]:
        mask = like.new_ones(1, layout.size, dtype=torch.bool) if layout.mask is None else layout.mask
        sizes, y = extents(layout, mask), self.table.expand(mask.shape[0], *self.table.shape)
        for axis, n in enumerate(layout.axes):
            y = torch.einsum("bus,bhs...->bhu...", self.weights(axis, n, sizes[:, axis]), y.movedim(2 + axis, 2))
            y = y.movedim(2, 2 + axis)
        return y.flatten(2)[:, :, offsets(layout.axes, like.device)]


def offsets(axes: Sequence[int], device: torch.device) -> Int[Tensor, "N N"]:
    """Where the offset of query i from key j stands in a lattice of 2 n - 1 offsets per axis, in raster order."""
    grids = torch.meshgrid(*(torch.arange(n, device=device) for n in axes), indexing="ij")
    index = torch.zeros((), dtype=torch.long, device=device)
    for grid, n in zip(grids, axes, strict=True):
        place = grid.flatten()
        index = index * (2 * n - 1) + place[:, None] - place[None, :] + n - 1
    return index


POSITIONS: dict[str, type[Position]] = {"none": Position, "rotary": Rotary, "alibi": Alibi, "table": Table}


def build_position(
    position: str | Mapping[str, Any],
    heads: int,
    width: int,
    *,
    rank: int | None = None,
    causal_axes: Collection[int] = (),
    ordered: bool = True,
    provides: Collection[str] | None = None,
) -> Position:
    """A position by its name, or as ``{kind: name, option: value ...}``, for queries of ``width`` channels a head.

    Raises BadRequest for an unknown name or option, and where the tokens do not stand as it needs.
    """
    options: dict[str, Any] = {"kind": position} if isinstance(position, str) else dict(position)
    kind = options.pop("kind", None)
    if kind not in POSITIONS:
        raise unknown("position", str(kind), POSITIONS)
    cls = POSITIONS[kind]
    if not ordered and cls.lattice:
        raise BadRequest(f"position {kind!r} stands on a lattice, and the tokens are an unordered set")
    if not ordered and cls.places and provides is not None and "positions" not in provides:
        raise BadRequest(f"position {kind!r} of a set needs positions, and the tokens carry {sorted(provides)}")
    check_options(f"position {kind!r}", cls, options)
    given = {"rank": rank, "causal_axes": tuple(sorted(causal_axes)) or None}
    allowed = [name for name in list(options_of(cls))[1:] if name not in given]  # after the width
    for name in options:
        if name not in allowed:
            raise unknown(f"option of position {kind!r}", name, allowed)
    options |= {name: value for name, value in given.items() if value is not None and name in options_of(cls)}
    return cls(heads, width, **options)


__all__ = [
    "POSITIONS",
    "LearnedPositions",
    "Position",
    "alibi",
    "build_position",
    "coordinates",
    "resize_relative",
    "resize_relative_tables",
    "rotary",
]
