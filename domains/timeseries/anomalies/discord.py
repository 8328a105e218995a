"""Discords: the distance of each window to the nearest one before it, a left matrix profile.

"Matrix Profile I" (Yeh et al. 2016), distances between z-normalised windows, here found by products of pieces.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

ROWS = 512


def normalised_windows(x: Float[np.ndarray, "T"], width: int) -> Float[np.ndarray, "n width"]:
    """Windows less their mean over their deviation; a flat window is all zeros."""
    windows = np.lib.stride_tricks.sliding_window_view(x, width)
    mean, std = windows.mean(1, keepdims=True), windows.std(1, keepdims=True)
    flat = std < 1e-8 * (1 + np.abs(mean))
    return np.where(flat, 0.0, (windows - mean) / np.where(flat, 1.0, std)).astype(np.float32)


def left_profile(x: Float[np.ndarray, "T"], width: int) -> Float[np.ndarray, "T"]:
    """At each step the distance of the window that ends there to the nearest that ended before it began.

    0 for the steps before the first such pair. A series without gaps.
    """
    windows = normalised_windows(x, width)
    square = (windows**2).sum(1)
    out = np.zeros(len(x))
    for start in range(width, len(windows), ROWS):
        rows = windows[start : start + ROWS]
        there = min(start + len(rows) - width, len(windows))
        distance = square[start : start + len(rows), None] + square[:there] - 2 * rows @ windows[:there].T
        place = np.arange(start, start + len(rows))[:, None]
        distance[place - np.arange(there) < width] = np.inf
        out[start + width - 1 : start + width - 1 + len(rows)] = np.sqrt(np.maximum(distance.min(1), 0.0))
    return out
