"""Blocks of a lattice: what patches, merging and windows have in common.

Shapes: B items, G blocks, P places in a block, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .layout import Layout


def whole_blocks(n: int, size: int) -> int:
    """Blocks of ``size`` places that cover ``n``."""
    return (n + size - 1) // size


def to_blocks(
    x: Float[Tensor, "B *axes C"] | Bool[Tensor, "B *axes C"], sizes: Sequence[int], front: Sequence[int] | None = None
) -> Float[Tensor, "B G P C"] | Bool[Tensor, "B G P C"]:
    """Cuts a lattice into blocks of ``sizes`` places, in raster order, places in raster order too.

    Each axis is padded with zeros (False) by ``front`` places before its start and then up to a whole block, so
    that block borders stand at fixed places of the lattice, whatever its size.
    """
    rank, axes = len(sizes), x.shape[1:-1]
    front = (0,) * rank if front is None else front
    counts = [whole_blocks(n + ahead, size) for n, size, ahead in zip(axes, sizes, front, strict=True)]
    pads = [0, 0]
    for n, count, size, ahead in zip(*map(reversed, (axes, counts, sizes, front)), strict=True):
        pads += [ahead, count * size - n - ahead]
    x = F.pad(x, pads)
    x = x.reshape(x.shape[0], *(part for pair in zip(counts, sizes, strict=True) for part in pair), x.shape[-1])
    x = x.permute(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return x.flatten(1 + rank, 2 * rank).flatten(1, rank)


def from_blocks(
    x: Float[Tensor, "B G P C"], axes: Sequence[int], sizes: Sequence[int], front: Sequence[int] | None = None
) -> Float[Tensor, "B *axes C"]:
    """The inverse of :func:`to_blocks` on a lattice of ``axes``: the padding is cut off again."""
    rank = len(sizes)
    front = (0,) * rank if front is None else front
    counts = [whole_blocks(n + ahead, size) for n, size, ahead in zip(axes, sizes, front, strict=True)]
    x = x.reshape(x.shape[0], *counts, *sizes, x.shape[-1])
    x = x.permute(0, *(i for axis in range(rank) for i in (1 + axis, 1 + rank + axis)), 2 * rank + 1)
    x = x.reshape(x.shape[0], *(c * size for c, size in zip(counts, sizes, strict=True)), x.shape[-1])
    for axis, (n, ahead) in enumerate(zip(axes, front, strict=True)):
        if torch.compiler.is_exporting():  # a narrowed tensor would fix whether the lattice was whole blocks
            x = x.index_select(1 + axis, torch.arange(ahead, ahead + n, device=x.device))
        else:
            x = x.narrow(1 + axis, ahead, n)
    return x


def pooled(x: Float[Tensor, "B N C"], layout: Layout, sizes: Sequence[int]) -> tuple[Float[Tensor, "B G C"], Layout]:
    """Mean of the real tokens of each block of ``sizes`` places, and the lattice of the blocks.

    A block is real when any of its tokens is; its position is the mean of theirs; edges do not carry over.
    """
    real = x.new_ones(x.shape[:2]) if layout.mask is None else layout.mask.to(x.dtype)
    counts = to_blocks(layout.fold(real[..., None]), sizes).sum(2)

    def mean(values: Tensor) -> Tensor:
        return to_blocks(layout.fold(layout.clean(values)), sizes).sum(2) / counts.to(values.dtype).clamp_min(1)

    return mean(x), Layout(
        axes=tuple(whole_blocks(n, size) for n, size in zip(layout.axes, sizes, strict=True)),
        mask=None if layout.mask is None else counts[..., 0] > 0,
        positions=None if layout.positions is None else mean(layout.positions),
        source=layout.source,
    )


def spread(lattice: Float[Tensor, "B *blocks C"], axes: Sequence[int], factor: int) -> Float[Tensor, "B *axes C"]:
    """Every place of a lattice of ``axes`` with the value of its block of factor^rank places."""
    for axis, n in enumerate(axes):
        lattice = lattice.index_select(1 + axis, torch.arange(n, device=lattice.device) // factor)
    return lattice
