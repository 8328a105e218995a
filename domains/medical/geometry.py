"""Canonical orientation and spacing, and the exact way back.

Inside, every volume stands with its axes to the right, to the front and upwards, each in the direction that it is
nearest to. Spacing changes by separable interpolation that keeps the field of view: voxel x of n stands where
(x + 1/2) M / n - 1/2 stands of M. Labels take the nearest voxel; images and probabilities are interpolated linearly,
and averaged where voxels become larger. Whatever is large is done slab by slab along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .data.volume import Volume, spacing_of


@dataclass(frozen=True)
class Turn:
    """How the axes of a stored grid become right, anterior, superior: their order, then which of them are reversed."""

    order: tuple[int, ...]
    reverse: tuple[bool, ...]

    def forth(self, voxels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Stored -> canonical; a view."""
        return _reversed(voxels.transpose(self.order), self.reverse)

    def back(self, voxels: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Canonical -> stored; a view."""
        return _reversed(voxels, self.reverse).transpose(np.argsort(self.order))

    def affine(self, stored: Float64[np.ndarray, "4 4"], shape: Sequence[int]) -> Float64[np.ndarray, "4 4"]:
        """The affine of the canonical grid, given that of the stored one and the stored shape."""
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for canonical, (own, flipped) in enumerate(zip(self.order, self.reverse, strict=True)):
            step[own, canonical] = -1 if flipped else 1
            step[own, 3] = shape[own] - 1 if flipped else 0
        return stored @ step


def _reversed(voxels: Shaped[np.ndarray, "..."], reverse: Sequence[bool]) -> Shaped[np.ndarray, "..."]:
    return voxels[tuple(slice(None, None, -1 if flipped else 1) for flipped in reverse)]


def turn_of(affine: Float64[np.ndarray, "4 4"]) -> Turn:
    """The turn whose axes together lie nearest to right, anterior and superior; of an oblique grid too."""
    axes = affine[:3, :3] / np.array(spacing_of(affine))
    world, own = linear_sum_assignment(-np.abs(axes))
    order = tuple(int(own[list(world).index(w)]) for w in range(3))
    return Turn(order, tuple(bool(axes[w, o] < 0) for w, o in enumerate(order)))


def canonical(volume: Volume) -> tuple[Volume, Turn]:
    """The volume in canonical orientation (a view of its voxels), and the turn that leads back."""
    turn = turn_of(volume.affine)
    turned = turn.affine(volume.affine, volume.shape)
    return Volume(turn.forth(volume.voxels), turned, volume.where, volume.stored), turn


def shape_at(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis that cover the same field of view at about the wanted spacing; at least one."""
    return tuple(max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True))


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: each new voxel is a weighted sum of K old ones."""

    index: Int64[Tensor, "m K"]
    weight: Float[Tensor, "m K"]
    same: bool  # nothing changes

    def __len__(self) -> int:
        return len(self.index)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The old voxels that the new ones from start to stop are made of."""
        part = self.index[start:stop]
        return int(part.min()), int(part.max()) + 1

    def apply(self, x: Float[Tensor, "..."], dim: int, start: int, stop: int, first: int = 0) -> Float[Tensor, "..."]:
        """New voxels start to stop along ``dim`` of ``x``, which holds the old ones from ``first`` on."""
        if self.same:
            return x.narrow(dim, start - first, stop - start)
        shape = [1] * x.ndim
        shape[dim] = stop - start
        out: Tensor | None = None
        for index, weight in zip(self.index[start:stop].unbind(1), self.weight[start:stop].unbind(1), strict=True):
            part = x.index_select(dim, index - first) * weight.to(x.dtype).reshape(shape)
            out = part if out is None else out.add_(part)
        assert out is not None  # there is always one tap
        return out


def taps(n: int, m: int) -> Taps:
    """From n voxels to m over the same field of view; where m < n each is a mean over a triangle of about 2 n / m."""
    if n == m:
        return Taps(torch.arange(n)[:, None], torch.ones(n, 1), True)
    scale = n / m
    wide = max(1.0, scale)
    centre = (torch.arange(m, dtype=torch.float64) + 0.5) * scale - 0.5
    first = torch.floor(centre - wide).long() + 1
    index = first[:, None] + torch.arange(int(np.ceil(2 * wide)))
    weight = (1 - (index - centre[:, None]).abs() / wide).clamp_min(0) * ((index >= 0) & (index < n))
    weight = weight / weight.sum(1, keepdim=True)
    return Taps(index.clamp(0, n - 1), weight.float(), False)


def nearest(n: int, m: int) -> Int64[np.ndarray, "m"]:
    """For each of m new voxels the nearest of n old ones."""
    return np.minimum(((np.arange(m) + 0.5) * n / m).astype(np.int64), n - 1)


def resample_labels(labels: Shaped[np.ndarray, "..."], shape: Sequence[int]) -> Shaped[np.ndarray, "..."]:
    """Labels on a grid of another shape over the same field of view, by the nearest voxel."""
    for axis, m in enumerate(shape):
        if labels.shape[axis] != m:
            labels = labels.take(nearest(labels.shape[axis], m), axis)
    return labels


def window_of(
    read: Callable[[tuple[slice, ...]], Float[Tensor, "C *old"]], along: Sequence[Taps], window: Sequence[slice]
) -> Float[Tensor, "C *new"]:
    """A window of the resampled grid, made of no more of the old grid than it needs. ``read``: old slices -> voxels."""
    spans = [taps.span(w.start, w.stop) for taps, w in zip(along, window, strict=True)]
    x = read(tuple(slice(*span) for span in spans))
    for axis, (t, w, (first, _)) in enumerate(zip(along, window, spans, strict=True)):
        x = t.apply(x, axis + 1, w.start, w.stop, first)
    return x


def resample(x: Float[Tensor, "C *old"], shape: Sequence[int]) -> Float[Tensor, "C *new"]:
    """The whole of it at once, linearly."""
    along = [taps(n, m) for n, m in zip(x.shape[1:], shape, strict=True)]
    return window_of(lambda old: x[(slice(None), *old)], along, [slice(0, m) for m in shape])


class SlabResampler:
    """Slabs of one grid in, slabs of another out, both in order along the first axis.

    It keeps only the rows that are still needed, and makes a few new rows at a time.
    """

    def __init__(self, old: Sequence[int], new: Sequence[int], rows: int = 4) -> None:
        self.along = [taps(n, m) for n, m in zip(old, new, strict=True)]
        self.rows, self.done, self.first = rows, 0, 0
        self.new = tuple(new)
        self.kept: Tensor | None = None

    def feed(self, slab: Float[Tensor, "C rows *rest"]) -> Iterator[tuple[slice, Float[Tensor, "C new *other"]]]:
        """(rows of the new grid, their values) that can be made with this slab of the old one and those before it."""
        have = slab if self.kept is None else torch.cat([self.kept, slab], 1)
        end = self.first + have.shape[1]
        while self.done < self.new[0]:
            stop = min(self.done + self.rows, self.new[0])
            low, high = self.along[0].span(self.done, stop)
            if high > end:
                break
            x = self.along[0].apply(have[:, low - self.first : high - self.first], 1, self.done, stop, low)
            for axis in range(1, len(self.new)):
                x = self.along[axis].apply(x, axis + 1, 0, self.new[axis])
            yield slice(self.done, stop), x
            self.done = stop
        needed = end if self.done == self.new[0] else self._next_row(end)
        self.kept, self.first = have[:, needed - self.first :].clone(), needed

    def _next_row(self, end: int) -> int:
        """The first old row that the next new row reads."""
        return min(self.along[0].span(self.done, self.done + 1)[0], end)
