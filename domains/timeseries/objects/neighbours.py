"""The nearest training series, by Euclidean distance and by dynamic time warping."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

PAIRS = 2_000_000  # cells of one diagonal computed at once
BAND_SHARE = 0.1  # of the length: how far the warping may run ahead


def euclidean(a: Float[np.ndarray, "n T V"], b: Float[np.ndarray, "m T V"]) -> Float[np.ndarray, "n m"]:
    """Squared distances, gaps (NaN) filled before."""
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0.0)


def warped(a: Float[np.ndarray, "n T V"], b: Float[np.ndarray, "n T V"], width: int) -> Float[np.ndarray, "n"]:
    """Squared dynamic-time-warping distance of each pair, the path at most ``width`` steps off the diagonal.

    D_ij = |a_i - b_j|^2 + min(D_(i-1)(j-1), D_(i-1)j, D_i(j-1)), one anti-diagonal after the other, all pairs at once.
    """
    n, t = a.shape[:2]
    before = np.full((n, t + 1), np.inf)  # diagonal i + j - 1, at place i + 1
    older = np.full((n, t + 1), np.inf)
    older[:, 0] = 0.0
    for diagonal in range(2 * t - 1):
        low = max(0, diagonal - t + 1, -(-(diagonal - width) // 2))
        high = min(t - 1, diagonal, (diagonal + width) // 2)
        now = np.full((n, t + 1), np.inf)
        if low <= high:
            i = np.arange(low, high + 1)
            cost = ((a[:, i] - b[:, diagonal - i]) ** 2).sum(2)
            best = np.minimum(np.minimum(before[:, i], before[:, i + 1]), older[:, i])
            now[:, i + 1] = cost + best
        older, before = before, now
        if diagonal == 0:
            older = np.full((n, t + 1), np.inf)
    return before[:, t]


def warped_matrix(a: Float[np.ndarray, "n T V"], b: Float[np.ndarray, "m T V"], width: int) -> Float[np.ndarray, "n m"]:
    """Distances of every series of ``a`` to every one of ``b``, in pieces."""
    out = np.zeros((len(a), len(b)))
    rows = max(1, PAIRS // (len(b) * a.shape[1] * a.shape[2]))
    for start in range(0, len(a), rows):
        piece = a[start : start + rows]
        left, right = np.repeat(piece, len(b), 0), np.tile(b, (len(piece), 1, 1))
        out[start : start + rows] = warped(left, right, width).reshape(len(piece), len(b))
    return out


def nearest_shares(
    distance: Float[np.ndarray, "n m"], labels: Int64[np.ndarray, "m"], classes: int
) -> Float[np.ndarray, "n K"]:
    """Class shares of the nearest object, with one more of every class counted, so that none is 0."""
    hit = np.eye(classes)[labels[distance.argmin(1)]]
    return (hit + 1 / classes) / 2
