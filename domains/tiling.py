"""Whole scenes, volumes and recordings in bounded memory: plan, halo, blend, sink.

One core for every lattice: a recording is (T,), a scene (H, W), a volume (D, H, W). The lattice is covered by tiles
(``plan``). Each is read with a halo of context that is clipped at the lattice's border and never padded, so a
network's own padding acts only where the lattice really ends. The outputs are cropped to the tile and, where tiles
overlap, averaged with ``blend`` weights. Weights are products of one factor per axis, normalised along each axis
alone: no plane of weights is ever kept, and finished slabs leave along axis 0, so memory does not depend on its size.

The average is a running one that leaves equal values alone: tiles that agree give back their value bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from shared_backbones.errors import BadRequest, unknown

Extent: TypeAlias = int | Sequence[int]  # one number for every axis, or one for each
Slices: TypeAlias = tuple[slice, ...]

GAUSSIAN_SIGMA = 0.125  # of the tile: the usual width for sliding windows, also MONAI's default
WEIGHT_FLOOR = 1e-3  # of the peak: keeps every weight well above rounding, so no element can be lost


@dataclass(frozen=True)
class Span:
    """A tile along one axis: what it answers for (start, stop) and what it reads for that (read_start, read_stop)."""

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def core(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def read(self) -> slice:
        return slice(self.read_start, self.read_stop)

    @property
    def inner(self) -> slice:
        return slice(self.start - self.read_start, self.stop - self.read_start)


@dataclass(frozen=True)
class Tile:
    """One tile of a plan. All slices are in bounds."""

    spans: tuple[Span, ...]

    @property
    def core(self) -> Slices:
        """The elements of the lattice that this tile answers for."""
        return tuple(s.core for s in self.spans)

    @property
    def read(self) -> Slices:
        """The core and its halo, clipped at the border of the lattice."""
        return tuple(s.read for s in self.spans)

    @property
    def inner(self) -> Slices:
        """Where the core lies inside the window that was read."""
        return tuple(s.inner for s in self.spans)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the core."""
        return tuple(s.stop - s.start for s in self.spans)


@dataclass(frozen=True)
class Plan:
    """The tiles that cover a lattice, in row-major order; iterating makes them one by one."""

    shape: tuple[int, ...]
    axes: tuple[tuple[Span, ...], ...]

    def __len__(self) -> int:
        return math.prod(len(spans) for spans in self.axes)

    def __iter__(self) -> Iterator[Tile]:
        return map(Tile, itertools.product(*self.axes))

    @property
    def overlapping(self) -> bool:
        """Whether any element belongs to more than one tile."""
        return any(a.stop > b.start for spans in self.axes for a, b in itertools.pairwise(spans))


def plan(shape: Sequence[int], tile: Extent, stride: Extent | None = None, halo: Extent = 0) -> Plan:
    """Tiles that cover a lattice of ``shape``, in elements; every argument may differ per axis.

    tile: size of what one step answers for; an axis shorter than it gives one tile of the axis' size.
    stride: steps between tiles, 1..tile; by default ``tile``, which gives tiles without overlap.
    halo: context read on each side besides, clipped at the border.

    The last tile along an axis is moved back to end with the axis, so that all windows have the full size. Without
    overlap it still reads the full window but answers only for what is left, so every element has one tile.
    Raises BadRequest for sizes, tiles, strides or halos that cannot be met.
    """
    rank = len(shape)
    if rank == 0 or min(shape) < 1:
        raise BadRequest(f"cannot tile a lattice of shape {tuple(shape)}: it needs at least one axis, each at least 1")
    tiles = _per_axis("tile", tile, rank, least=1)
    strides = tiles if stride is None else _per_axis("stride", stride, rank, least=1)
    halos = _per_axis("halo", halo, rank, least=0)
    for axis, (s, t) in enumerate(zip(strides, tiles, strict=True)):
        if s > t:
            raise BadRequest(f"stride {s} on axis {axis} would leave holes: allowed are 1 to the tile size {t}")
    spans = tuple(_spans(*four) for four in zip(shape, tiles, strides, halos, strict=True))
    return Plan(tuple(int(n) for n in shape), spans)


def _per_axis(name: str, value: Extent, rank: int, least: int) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != rank:
        raise BadRequest(f"{name} has {len(values)} numbers {values} for a lattice with {rank} axes: give 1 or {rank}")
    if min(values) < least:
        raise BadRequest(f"{name} must be at least {least} on every axis, got {value}")
    return values


def _spans(size: int, tile: int, stride: int, halo: int) -> tuple[Span, ...]:
    last = max(size - tile, 0)  # where the last full window starts
    spans = []
    for start in (*range(0, last, stride), last):
        # without overlap the last tile answers only for what the others left
        own = -(-start // tile) * tile if stride == tile else start
        stop = min(start + tile, size)
        spans.append(Span(own, stop, max(start - halo, 0), min(stop + halo, size)))
    return tuple(spans)


def _constant(size: int) -> Float[Tensor, "size"]:
    return torch.ones(size, dtype=torch.float64)


def _hann(size: int) -> Float[Tensor, "size"]:
    return torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size) ** 2


def _gaussian(size: int) -> Float[Tensor, "size"]:
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return torch.exp(-0.5 * (offset / (GAUSSIAN_SIGMA * size)) ** 2)


BLENDS: dict[str, Callable[[int], Tensor]] = {"constant": _constant, "hann": _hann, "gaussian": _gaussian}


def window(blend: str, size: int) -> Float[Tensor, "size"]:
    """Weights of a tile along one axis before normalisation, in (0, 1], float64. Raises BadRequest on other names."""
    if blend not in BLENDS:
        raise unknown("blend", blend, BLENDS)
    return BLENDS[blend](size).clamp_min(WEIGHT_FLOOR)


def shares(spans: Sequence[Span], blend: str = "constant") -> list[Float[Tensor, "_"]]:
    """For each tile along an axis the share it has in each of its elements; over all tiles they sum to one."""
    weights = [window(blend, span.stop - span.start) for span in spans]
    total = torch.zeros(spans[-1].stop, dtype=torch.float64)
    for span, weight in zip(spans, weights, strict=True):
        total[span.core] += weight
    return [weight / total[span.core] for span, weight in zip(spans, weights, strict=True)]


def _running(spans: Sequence[Span], blend: str) -> list[Float[Tensor, "_"]]:
    """The step of the running average at each tile: its share among the tiles so far (1 where it is the first)."""
    so_far = torch.zeros(spans[-1].stop, dtype=torch.float64)
    steps = []
    for span, share in zip(spans, shares(spans, blend), strict=True):
        so_far[span.core] += share
        steps.append(share / so_far[span.core])
    return steps


def _merge_(new: Tensor, old: Tensor, step: Tensor, dim: int) -> None:
    """``new`` becomes the running average of both along ``dim``: equal values stay as they are, infinities survive."""
    step = step.to(device=new.device, dtype=new.real.dtype).reshape(-1, *[1] * (new.ndim - dim - 1))
    for now, was in zip(new.unbind(0), old.unbind(0), strict=True):  # by channel: temporaries stay small
        same = now == was
        now.mul_(step).addcmul_(was, 1 - step)
        torch.where(same, was, now, out=now)


@torch.no_grad()
def stream(
    read: Callable[[Slices], Shaped[Tensor, "C *window"]],
    apply: Callable[[Tensor], Shaped[Tensor, "K *window"]],
    write: Callable[[Slices, Tensor], None],
    *,
    shape: Sequence[int],
    tile: Extent,
    stride: Extent | None = None,
    halo: Extent = 0,
    blend: str = "constant",
    progress: Callable[[int, int], None] | None = None,
    on_error: Callable[[Tile, Exception], Tensor] | None = None,
    done: int = 0,
    only: Collection[int] | None = None,
) -> Plan:
    """Apply a network to a whole lattice, holding no more than about two rows of tiles along axis 0.

    read: in-bounds slices (core and clipped halo) -> (C, *window).
    apply: (C, *window) -> (K, *window), of the same spatial size.
    write: gets finished slabs (K, *slab) in order along axis 0, each with the full extent of the other axes.
    blend: "constant", "hann" or "gaussian"; of no effect where tiles do not overlap, and values of any type then
        pass through untouched. Half precision is averaged, and then written, as float32.
    progress: called with (tiles done, tiles in all).
    on_error: turns the failure of one tile into its value (K, *tile.shape), for a damaged block in a file. Where
        tiles overlap this should be NaN, which marks the whole tile instead of being averaged into good values.
    done: rows along axis 0 that an earlier run has written, up to the end of one of its slabs; the rest comes out
        bit for bit as it did then. ``progress`` counts the tiles of this run.
    only: numbers of the rows of tiles along axis 0 that are made; where tiles do not overlap, each comes out alone.

    Returns the plan. Raises BadRequest for an impossible plan or for integers where an average is needed.
    """
    tiles = plan(shape, tile, stride, halo)
    steps = [_running(spans, blend) for spans in tiles.axes]
    rows = [i for i, span in enumerate(tiles.axes[0]) if span.stop > done]  # all that have a say in what is left
    if only is not None:
        if tiles.overlapping:
            raise BadRequest("tiles that overlap depend on the rows before them: they cannot be made alone")
        rows = [i for i in rows if i in only]
    made, to_make = 0, len(rows) * len(tiles) // len(tiles.axes[0])

    def leaf(spans: tuple[Span, ...]) -> Tensor:
        nonlocal made
        value = _tile_value(Tile(spans), read, apply, on_error)
        made += 1
        if progress is not None:
            progress(made, to_make)
        return _as_average(value) if tiles.overlapping else value

    def gather(axis: int, chosen: tuple[Span, ...]) -> Tensor:
        """(K, *cores of the chosen spans, *full extent of the axes from ``axis`` on)."""
        if axis == len(tiles.axes):
            return leaf(chosen)
        dim, end, out = axis + 1, 0, None
        for span, step in zip(tiles.axes[axis], steps[axis], strict=True):
            part = gather(dim, (*chosen, span))
            if out is None:
                out = part.new_empty((*part.shape[:dim], tiles.shape[axis], *part.shape[dim + 1 :]))
            both = end - span.start  # elements that earlier tiles have begun
            if both > 0:
                _merge_(part.narrow(dim, 0, both), out.narrow(dim, span.start, both), step[:both], dim)
            out.narrow(dim, span.start, span.stop - span.start).copy_(part)
            end = span.stop
        assert out is not None  # every axis has at least one span
        return out

    rest = tuple(slice(0, n) for n in tiles.shape[1:])
    carry: Tensor | None = None  # a copy of the rows that later tiles have still to complete

    def row(index: int) -> None:
        """Make a row of tiles, write what is finished with it, and carry the rest."""
        nonlocal carry
        span, new = tiles.axes[0][index], gather(1, (tiles.axes[0][index],))
        if carry is not None:
            both = carry.shape[1]
            _merge_(new[:, :both], carry, steps[0][index][:both], 1)
            carry = None
        final = index + 1 == len(tiles.axes[0])
        ready = span.stop if final else tiles.axes[0][index + 1].start
        begin = max(span.start, done)
        if begin < ready:
            write((slice(begin, ready), *rest), new[:, begin - span.start : ready - span.start])
        if ready < span.stop:
            carry = new[:, ready - span.start :].clone()

    for index in rows:
        row(index)
    return tiles


def _tile_value(
    tile: Tile,
    read: Callable[[Slices], Tensor],
    apply: Callable[[Tensor], Tensor],
    on_error: Callable[[Tile, Exception], Tensor] | None,
) -> Tensor:
    """(K, *core) of one tile, in memory of its own: the network may have returned a view of the caller's data."""
    try:
        seen = read(tile.read)
        value = apply(seen)
    except Exception as error:
        if on_error is None:
            raise
        value = on_error(tile, error)
        if tuple(value.shape[1:]) != tile.shape:
            raise ValueError(f"on_error must return (K, *{tile.shape}), got {tuple(value.shape)}") from error
        return value.clone()
    if value.shape[1:] != seen.shape[1:]:
        raise ValueError(f"apply must keep the spatial size {tuple(seen.shape[1:])}, got {tuple(value.shape[1:])}")
    return value[(slice(None), *tile.inner)].clone()


def _as_average(value: Tensor) -> Tensor:
    if not (value.is_floating_point() or value.is_complex()):
        raise BadRequest(
            f"overlapping tiles are averaged, which means nothing for {value.dtype} values: "
            "return scores, or use stride = tile"
        )
    return value.to(torch.promote_types(value.dtype, torch.float32))


def map_tiles(
    x: Shaped[Tensor, "C *axes"],
    apply: Callable[[Tensor], Tensor],
    *,
    tile: Extent,
    stride: Extent | None = None,
    halo: Extent = 0,
    blend: str = "constant",
) -> Shaped[Tensor, "K *axes"]:
    """``stream`` over a tensor in memory: (C, *axes) -> (K, *axes)."""
    slabs: list[Tensor] = []
    stream(
        lambda window: x[(slice(None), *window)],
        apply,
        lambda _, slab: slabs.append(slab),
        shape=x.shape[1:],
        tile=tile,
        stride=stride,
        halo=halo,
        blend=blend,
    )
    return torch.cat(slabs, dim=1)
