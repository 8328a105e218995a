"""Whole images and volumes through a segmenter in bounded memory: blended windows, reduced slab by slab.

Windows are cut from the stored voxels, brought to the plan's spacing and normalised one by one; their probabilities are
averaged, and each finished slab is brought back to the stored spacing and reduced to labels and the largest probability
at once. What is held grows with a slab of the classes' probabilities, never with the classes times the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor, nn

from ..tiling import Slices, stream
from .geometry import SlabResampler, shape_at, taps, window_of
from .plan import Plan, factors
from .segment_items import scaled_, voxels_of
from .segment_model import squeezed, unsqueezed

Probabilities = Callable[[slice, Tensor], None]


@dataclass(frozen=True)
class Blend:
    """How windows lie and are averaged: overlap as a share of the window, weights as in :mod:`domains.tiling`.

    views: mirrored views of each window that are averaged; 1: the window as it is.
    """

    overlap: float = 0.5
    kind: str = "gaussian"
    views: int = 1

    def stride(self, patch: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, int(p * (1 - self.overlap))) for p in patch)


def order_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes with the longest first, along which slabs are made: then slabs are small."""
    first = int(np.argmax(shape))
    return (first, *(axis for axis in range(len(shape)) if axis != first))


def mirrors(rank: int, views: int) -> list[tuple[int, ...]]:
    """Sets of axes to mirror: none, then single ones, then pairs; at most ``views`` of the 2^rank there are."""
    axes = range(rank)
    return list(islice(chain.from_iterable(combinations(axes, n) for n in range(rank + 1)), views))


def apply_to(model: nn.Module, across: int | None, views: int = 1) -> Callable[[Tensor], Tensor]:
    """(C, *window) -> probabilities (K, *window), in the canonical order of axes.

    With several views their mean, and as channel K the largest deviation over views of any structure's probability.
    """

    def apply(x: Tensor) -> Tensor:
        flat = squeezed(x[None], across).to(next(model.parameters()).device)
        if views == 1:
            return unsqueezed(model(flat).softmax(1), across)[0].cpu()
        turns = [[2 + axis for axis in axes] for axes in mirrors(flat.ndim - 2, views)]
        mean = squares = torch.zeros(())
        for n, turn in enumerate(turns, 1):  # view by view: all of them at once would be held for every class
            p = model(flat.flip(turn)).softmax(1).flip(turn)
            before, mean = mean, p / n if n == 1 else mean + (p - mean) / n
            squares = torch.zeros_like(p) if n == 1 else squares + (p - before) * (p - mean)
        spread = (squares / len(turns)).amax(1, keepdim=True).clamp_min(0).sqrt()
        return unsqueezed(torch.cat([mean, spread], 1), across)[0].cpu()

    return apply


@torch.inference_mode()
def stream_probabilities(
    model: nn.Module,
    image: Shaped[np.ndarray, "C *axes"],
    spacing: Sequence[float],
    plan: Plan,
    blend: Blend,
    write: Probabilities,
    order: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Probabilities on the image's own grid: ``write`` gets (rows, (K, *slab)) in order along the axis ``order[0]``.

    The slab's axes stand in that order too. With several views there is one channel more, their deviation. The model
    must be in evaluation mode.
    """
    stored = image.transpose(0, *(1 + axis for axis in order))
    old = stored.shape[1:]
    new = shape_at(old, [spacing[a] for a in order], [plan.spacing[a] for a in order])
    along = [taps(n, m) for n, m in zip(old, new, strict=True)]
    scale, shift = (torch.from_numpy(v) for v in factors(stored, plan))
    patch = [plan.patch[axis] for axis in order]
    back = [int(axis) for axis in np.argsort(order)]
    apply = apply_to(model, plan.across, blend.views)
    resampler = SlabResampler(new, old)

    def read(at: Slices) -> Tensor:
        x = window_of(lambda part: voxels_of(stored[(slice(None), *part)]), along, at)
        return scaled_(x.contiguous(), plan, scale, shift)

    def turned(x: Tensor) -> Tensor:
        y = apply(x.permute(0, *(1 + axis for axis in back)))
        return y.permute(0, *(1 + axis for axis in order))

    def put(_: Slices, slab: Tensor) -> None:
        for rows, value in resampler.feed(slab):
            write(rows, value)

    stream(read, turned, put, shape=new, tile=patch, stride=blend.stride(patch), blend=blend.kind, progress=progress)


@dataclass(frozen=True)
class Answer:
    """Of a whole image, on its own grid: class positions, and the probability of each (255 is 1).

    spread: where several views were averaged, the largest deviation over them (255 is 0.5, the most there can be).
    """

    labels: Shaped[np.ndarray, "*axes"]
    sure: Shaped[np.ndarray, "*axes"]
    spread: Shaped[np.ndarray, "*axes"] | None = None

    @property
    def probability(self) -> Float32[np.ndarray, "*axes"]:
        return self.sure.astype(np.float32) / 255

    @property
    def mean_spread(self) -> float:
        """Mean deviation over views; 0 where there was one."""
        return 0.0 if self.spread is None else float(self.spread.mean() / 510)


def segment(
    model: nn.Module,
    image: Shaped[np.ndarray, "C *axes"],
    spacing: Sequence[float],
    plan: Plan,
    blend: Blend,
    progress: Callable[[int, int], None] | None = None,
) -> Answer:
    """Labels and largest probability of a canonical image, in one byte each (two where there are over 256 classes)."""
    order = order_of(image.shape[1:])
    shape = [image.shape[1 + axis] for axis in order]
    classes = int(model.classes)  # type: ignore[arg-type]
    labels = np.empty(shape, np.uint8 if classes <= 256 else np.uint16)
    sure = np.empty(shape, np.uint8)
    spread = np.empty(shape, np.uint8) if blend.views > 1 else None

    def write(rows: slice, p: Tensor) -> None:
        most, at = p[:classes].max(0)
        labels[rows] = at.numpy()
        sure[rows] = (most * 255).round().clamp_(0, 255).numpy()
        if spread is not None:
            spread[rows] = (p[classes] * 510).round().clamp_(0, 255).numpy()

    model.eval()
    stream_probabilities(model, image, spacing, plan, blend, write, order, progress)
    back = np.argsort(order)
    return Answer(labels.transpose(back), sure.transpose(back), None if spread is None else spread.transpose(back))
