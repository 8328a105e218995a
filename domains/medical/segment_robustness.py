"""What a trained segmenter makes of corrupted images: Dice level by level, on one window of each of a few cases.

Corruptions act on the image as it is stored (of a large volume on the part around the structures), along the planes in
which it was taken; then it is resampled and normalised like any other, so the statistics are those of the bad image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from .corruption_pictures import corruption_picture
from .corruptions import CORRUPTIONS, LEVELS, corrupted
from .data.pairs import Grid
from .plan import Plan
from .segment_items import prepare, seen_by
from .segment_model import squeezed, unsqueezed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .segment_model import Segmenter
    from .segment_source import SegmentData

MOST_VOXELS = 2_000_000  # of the part that is corrupted


def around_structures(grid: Grid, most: int = MOST_VOXELS) -> Grid:
    """The part of a case around the middle of its structures, of at most so many voxels."""
    assert grid.labels is not None
    sides = list(grid.shape)
    while np.prod(sides) > most:
        longest = int(np.argmax(sides))
        sides[longest] = max(1, sides[longest] * 9 // 10)
    starts = [min(max(0, c - s // 2), n - s) for c, s, n in zip(_middle(grid.labels), sides, grid.shape, strict=True)]
    inside = tuple(slice(a, a + s) for a, s in zip(starts, sides, strict=True))
    return replace(grid, image=grid.image[(slice(None), *inside)], labels=grid.labels[inside], volume=None, turn=None)


def _middle(labels: Any) -> list[int]:
    """The voxel of a structure that is nearest to the middle of all of them; the image's middle where there is none."""
    at = np.argwhere(labels > 0)
    if not len(at):
        return [n // 2 for n in labels.shape]
    return [int(v) for v in at[np.abs(at - np.median(at, 0)).sum(1).argmin()]]


def unit_range(image: Shaped[np.ndarray, "C *axes"], plan: Plan) -> tuple[Any, Any]:
    """(low, high) of every channel that become 0 and 1: the plan's limits, or the image's own."""
    column = (-1, *[1] * (image.ndim - 1))
    if plan.normalise == "fixed":
        low, high = np.array(plan.low), np.array(plan.high)
    else:
        flat = image.reshape(len(image), -1)
        low, high = flat.min(1).astype(np.float64), np.percentile(flat, 99.9, axis=1)
    return low.reshape(column), np.maximum(high, low + 1e-6).reshape(column)


def in_planes(grid: Grid) -> tuple[int, ...]:
    """Axes of an image with the two of a slice last: the thickest first, from the feet up where none is."""
    if len(grid.shape) == 2:
        return (0, 1)
    thick = int(np.argmax(grid.spacing)) if max(grid.spacing) > 1.001 * min(grid.spacing) else 2
    return (thick, *(axis for axis in (1, 0, 2) if axis != thick))


def spoiled(grid: Grid, plan: Plan, name: str, level: int, seed: int) -> Grid:
    """A case with a corruption, in its stored units."""
    low, high = unit_range(grid.image, plan)
    x = ((grid.image - low) / (high - low)).clip(0, 1).astype(np.float32)
    order = in_planes(grid)
    turned = np.ascontiguousarray(x.transpose(0, *(1 + axis for axis in order)))
    y = corrupted(torch.from_numpy(turned)[None], name, level, seed)[0].numpy()
    y = y.transpose(0, *(1 + int(axis) for axis in np.argsort(order)))
    return replace(grid, image=(y * (high - low) + low).astype(np.float32))


def overlap_counts(
    truth: Int64[Tensor, "*axes"], guess: Int64[Tensor, "*axes"], structures: int
) -> Float[np.ndarray, "structures"]:
    """Dice of structures 1 .. ``structures``; NaN of one that is in neither. Truth below 0 counts nowhere."""
    counts = truth >= 0
    t, g = truth[counts], guess[counts]
    size = structures + 1
    both = torch.bincount(t[t == g], minlength=size)[1:].double()
    sides = (torch.bincount(t, minlength=size) + torch.bincount(g, minlength=size))[1:].double()
    return np.where(sides.numpy() > 0, 2 * both.numpy() / np.maximum(sides.numpy(), 1), np.nan)


def mean_dice(cases: Sequence[Float[np.ndarray, "structures"]]) -> float:
    """Mean over structures of the mean over the cases that speak for one."""
    table = np.stack(cases)
    there = np.isfinite(table)
    each = np.where(there, table, 0).sum(0)[there.any(0)] / there.sum(0)[there.any(0)]
    return float(each.mean()) if len(each) else float("nan")


@torch.inference_mode()
def corruption_scores(
    model: Segmenter, data: SegmentData, rows: Int64[np.ndarray, "n 3"], plan: Plan
) -> dict[str, list[float]]:
    """Corruption -> Dice at level 0 (clean) to 5, of one window around the structures of each piece."""
    model.eval()
    found: dict[tuple[str, int], list[Any]] = {}
    for seed, row in enumerate(rows):
        grid = around_structures(data.piece(row))
        piece = prepare(grid, plan)
        centre = _middle(piece.labels.numpy())
        room = [max(0, n - p) for n, p in zip(piece.shape, plan.patch, strict=True)]
        start = [min(max(0, c - p // 2), r) for c, p, r in zip(centre, plan.patch, room, strict=True)]

        # a thin piece is not padded: predictions read it as it is too
        inside = tuple(slice(s, min(s + p, n)) for s, p, n in zip(start, plan.patch, piece.shape, strict=True))

        def dice(image: Float32[Tensor, "C *axes"], truth: Any = piece.labels[inside], inside: Any = inside) -> Any:
            x = image[(slice(None), *inside)]
            z = model(squeezed(x[None], plan.across).to(model.temperature.device))
            return overlap_counts(truth, unsqueezed(z, plan.across)[0].argmax(0).cpu(), model.classes - 1)

        clean = dice(piece.image)
        for name in CORRUPTIONS:
            found.setdefault((name, 0), []).append(clean)
            for level in LEVELS:
                found.setdefault((name, level), []).append(dice(seen_by(spoiled(grid, plan, name, level, seed), plan)))
    return {name: [mean_dice(found[name, level]) for level in (0, *LEVELS)] for name in CORRUPTIONS}


def chosen_rows(rows: Int64[np.ndarray, "n 3"], most: int) -> Int64[np.ndarray, "m 3"]:
    """At most so many test pieces, drawn once and for all."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def corruption_curves(
    data: SegmentData, rows: Int64[np.ndarray, "n 3"], plan: Plan, scores: Mapping[str, Any]
) -> Figure:
    """Dice under every corruption, and an example of each: the slice with most of the structures."""
    grid = around_structures(data.piece(rows[0]))
    assert grid.labels is not None
    order = in_planes(grid)
    low, high = unit_range(grid.image, plan)
    image = ((grid.image - low) / (high - low)).clip(0, 1).transpose(0, *(1 + axis for axis in order))
    if len(order) == 3:
        image = image[:, int((grid.labels > 0).transpose(order).sum((1, 2)).argmax())]
        image = image[:, ::-1]  # front up
    shown = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    return corruption_picture(scores, shown, "Dice", f"a window of {len(rows)} of the test cases each")
