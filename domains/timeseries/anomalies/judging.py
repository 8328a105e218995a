"""From how unusual each step looks, in one view or several, to scores and a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .records import Record
from .scores import causal_mean, surprise, threshold_of
from .windows import standardised

View = Float[np.ndarray, "_ _"]  # (steps, channels), which differ between series


def moving_z(record: Record, lookback: int) -> Float[np.ndarray, "T V"]:
    """|x - mean| / deviation over the look-back before each step; NaN where there is none."""
    z, seen = standardised(record)
    out = np.full(z.shape, np.nan)
    for v in range(z.shape[1]):
        x = np.where(seen[:, v], z[:, v], np.nan)
        mean, square = causal_mean(x, lookback), causal_mean(x**2, lookback)
        std = np.sqrt(np.maximum(square - mean**2, 0.0) + 1e-4)
        out[1:, v] = np.abs(x[1:] - mean[:-1]) / std[:-1]
    out[:lookback] = np.nan
    return out


def far(record: Record) -> Float[np.ndarray, "T V"]:
    """Distance from the middle of the training steps, in their deviations; NaN where nothing was observed."""
    z, seen = standardised(record)
    return np.where(seen, np.abs(z), np.nan)


def views_of(record: Record, errors: Float[np.ndarray, "T V"], lookback: int) -> list[View]:
    """What the watcher looks at: its own error, the distance from the last steps, the distance from the training."""
    return [errors, moving_z(record, lookback), far(record)]


def judged(
    views: Sequence[Sequence[View]], records: Sequence[Record], smooth: int, rate: float
) -> tuple[list[Float[np.ndarray, "T"]], float]:
    """Scores of every series, and the threshold that all validation steps set.

    Views are joined by the mean of their surprises ("Statistical Methods for Research Workers", Fisher 1932); of
    several channels the most unusual one counts.
    """
    scores = []
    for own, r in zip(views, records, strict=True):
        channels = range(own[0].shape[1])
        joined = [np.mean([surprise(view[:, v], r.train, smooth) for view in own], axis=0) for v in channels]
        scores.append(np.max(joined, axis=0))
    return scores, threshold_of([s[r.train : r.known] for s, r in zip(scores, records, strict=True)], rate)
