"""Overlap and surface distances of one structure in one case, with an explicit word for what is empty or missed.

The policy, for truth T and prediction P of a structure in a case:

    T and P empty          "absent":    nothing is scored; such cases are counted
    T empty, P not         "false":     Dice, IoU and surface Dice 0, distances the diagonal of the image
    T not, P empty         "missed":    the same
    neither                "found":     as measured

So a miss is never left out of a mean, and marking what is not there never goes unpunished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

State = Literal["absent", "false", "missed", "found"]


@dataclass(frozen=True)
class Agreement:
    """One structure in one case. Distances in the unit of the spacing; NaN where nothing is scored."""

    state: State
    dice: float
    iou: float
    hd95: float
    assd: float
    nsd: float


ABSENT = Agreement("absent", *[float("nan")] * 5)


def border(mask: Bool[np.ndarray, "*axes"]) -> Bool[np.ndarray, "*axes"]:
    """Voxels of a structure with a neighbour along an axis outside it; beyond the image all is outside."""
    return mask & ~ndimage.binary_erosion(mask)


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Of the image: the distance that stands for a miss."""
    return float(np.sqrt(sum(((n - 1) * s) ** 2 for n, s in zip(shape, spacing, strict=True))))


def _cropped(a: Bool[np.ndarray, "*axes"], b: Bool[np.ndarray, "*axes"]) -> tuple[slice, ...]:
    """The box that holds both: distances between their borders do not look further."""
    either = a | b
    found = []
    for axis in range(either.ndim):
        at = np.flatnonzero(either.any(tuple(i for i in range(either.ndim) if i != axis)))
        found.append(slice(int(at[0]), int(at[-1]) + 1))
    return tuple(found)


def distances(
    truth: Bool[np.ndarray, "*axes"], guess: Bool[np.ndarray, "*axes"], spacing: Sequence[float]
) -> tuple[Float[np.ndarray, "t"], Float[np.ndarray, "g"]]:
    """From every border voxel of the truth to the nearest of the guess, and the other way. Neither may be empty."""
    box = _cropped(truth, guess)
    pad = [(1, 1)] * truth.ndim
    a, b = (border(np.pad(mask[box], pad)) for mask in (truth, guess))
    to_b = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    to_a = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
    return to_b, to_a


def agreement(
    truth: Bool[np.ndarray, "*axes"],
    guess: Bool[np.ndarray, "*axes"],
    spacing: Sequence[float],
    tolerance: float,
) -> Agreement:
    """Dice, IoU, 95th percentile of the Hausdorff distance, mean surface distance, surface Dice within ``tolerance``.

    hd95: the larger of the two directed 95th percentiles. assd: mean over the border voxels of both. nsd: share of the
    border voxels of both that lie within the tolerance of the other border.
    """
    t, g = int(truth.sum()), int(guess.sum())
    if t == 0 and g == 0:
        return ABSENT
    if t == 0 or g == 0:
        far = diagonal(truth.shape, spacing)
        return Agreement("false" if t == 0 else "missed", 0.0, 0.0, far, far, 0.0)
    both = int((truth & guess).sum())
    forth, back = distances(truth, guess, spacing)
    count = len(forth) + len(back)
    return Agreement(
        "found",
        2 * both / (t + g),
        both / (t + g - both),
        float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        float((forth.sum() + back.sum()) / count),
        float(((forth <= tolerance).sum() + (back <= tolerance).sum()) / count),
    )


def cells(boundary: Bool[np.ndarray, "h w"], smallest: int = 0) -> Int[np.ndarray, "h w"]:
    """Numbers of the connected pieces (4 neighbours) that a boundary parts; 0 on the boundary.

    Pieces of fewer than ``smallest`` pixels are left out.
    """
    numbers, count = ndimage.label(~boundary)
    if smallest and count:
        size = np.bincount(numbers.ravel())
        numbers = np.where(size[numbers] < smallest, 0, numbers)
    return numbers


def filled(numbers: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Every pixel without a number takes that of the nearest pixel with one."""
    if not numbers.any():
        return numbers
    at = ndimage.distance_transform_edt(numbers == 0, return_distances=False, return_indices=True)
    return numbers[tuple(at)]


def v_rand(truth: Int[np.ndarray, "h w"], guess: Int[np.ndarray, "h w"]) -> float:
    """F-score of the Rand index over the pixels where ``truth`` is not 0, as in the ISBI 2012 challenge.

    With p_ij the share of pixels in true cell i and found cell j, t_i and s_j their sums: sum p_ij^2 over the mean of
    sum t_i^2 and sum s_j^2. NaN where the truth has no cell.
    """
    inside = truth > 0
    n = int(inside.sum())
    if n == 0:
        return float("nan")
    a, b = truth[inside].astype(np.int64), guess[inside].astype(np.int64)
    pairs = np.unique(a * (int(b.max()) + 1) + b, return_counts=True)[1]
    together, of_truth, of_guess = (
        float(((counts / n) ** 2).sum())
        for counts in (pairs, np.unique(a, return_counts=True)[1], np.unique(b, return_counts=True)[1])
    )
    return together / (0.5 * of_truth + 0.5 * of_guess)


def boundary_agreement(truth: Bool[np.ndarray, "h w"], guess: Bool[np.ndarray, "h w"]) -> float:
    """V-Rand of the cells that a boundary parts; of the found ones, each boundary pixel goes to its nearest cell."""
    return v_rand(cells(truth), filled(cells(guess, smallest=16)))
