"""Prediction intervals from the errors on validation windows, per step ahead and series.

Split conformal: the offset of a quantile is the empirical quantile of the errors y - forecast on windows that were not
trained on; it reaches farther where the errors of training and validation windows together do. Offsets are ordered and
enclose 0, so quantiles never cross and the point forecast lies between. They may widen with how much the look-back
moves: errors are then ranked over spread^power, the power chosen on validation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from .config import QUANTILES

MAX_ERRORS = 4_000_000  # numbers kept while calibrating
POWERS = (0.0, 0.5, 1.0)
LEAST_SPREAD = 0.05  # z-scored: a still look-back does not make an interval vanish


@dataclass(frozen=True)
class Intervals:
    """Offsets of QUANTILES around a point forecast, to be multiplied by spread^power; z-scored."""

    offsets: Float[np.ndarray, "Q H V"]
    power: float = 0.0
    rate: float = 0.0  # at which they follow the errors; see domains.timeseries.tracking

    def around(self, spread: Float[np.ndarray, "B V"]) -> Float[np.ndarray, "Q B H V"]:
        """Offsets for windows whose look-backs have these spreads."""
        return self.offsets[:, None] * (spread**self.power)[None, :, None]


def spread_of(past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"]) -> Float[np.ndarray, "B V"]:
    """Standard deviation of each observed look-back, at least LEAST_SPREAD; ``past`` is z-scored, 0 where missing."""
    count = np.maximum(1, mask.sum(1))
    mean = past.sum(1) / count
    variance = np.where(mask, (past - mean[:, None]) ** 2, 0.0).sum(1) / count
    return np.maximum(np.sqrt(variance), LEAST_SPREAD)


def fit_intervals(
    errors: Float[np.ndarray, "n H V"], known: Bool[np.ndarray, "n H V"], spread: Float[np.ndarray, "n V"]
) -> Intervals:
    """Intervals from errors on validation windows in time order, masked where nothing was observed.

    The power is the one whose intervals from one half of the windows have the least pinball loss on the other half.
    """
    half = len(errors) // 2
    pairs = ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))) if half else ()

    def left_out(power: float) -> float:
        total = 0.0
        for fit, held in pairs:
            offsets = offsets_of(errors[fit] / spread[fit, None] ** power, known[fit])
            total += pinball(errors[held], known[held], Intervals(offsets, power).around(spread[held]))
        return total

    power = min(POWERS, key=left_out)
    return Intervals(offsets_of(errors / spread[:, None] ** power, known), power)


def pinball(
    errors: Float[np.ndarray, "n H V"], known: Bool[np.ndarray, "n H V"], offsets: Float[np.ndarray, "Q n H V"]
) -> float:
    """Sum of the pinball losses of all quantiles over observed elements; ``offsets`` are about the same forecast."""
    total = 0.0
    for q, offset in zip(QUANTILES, offsets, strict=True):
        gap = errors - offset
        total += float(np.maximum(q * gap, (q - 1) * gap)[known].sum(dtype=np.float64))
    return total


def offsets_of(errors: Float[np.ndarray, "n H V"], known: Bool[np.ndarray, "n H V"]) -> Float[np.ndarray, "Q H V"]:
    """Offsets of QUANTILES around the point forecast from validation errors; masked places do not count.

    The finite-sample rule of split conformal prediction widens a quantile q of n errors to rank ceil((n + 1) q).
    A step and series without any error gets the widest offsets of its series, or 0 where it has none at all.
    """
    out = np.zeros((len(QUANTILES), *errors.shape[1:]))
    ordered = np.sort(np.where(known, errors, np.inf), axis=0)
    count = known.sum(0)
    for i, q in enumerate(QUANTILES):
        if q == 0.5 or not len(errors):
            continue
        rank = np.floor((count + 1) * q) if q < 0.5 else np.ceil((count + 1) * q)
        place = np.clip(rank.astype(int) - 1, 0, np.maximum(count - 1, 0))
        chosen = np.where(count > 0, np.take_along_axis(ordered, place[None], 0)[0], 0.0)
        out[i] = np.minimum(chosen, 0) if q < 0.5 else np.maximum(chosen, 0)
        out[i] = np.where(count > 0, out[i], out[i].min(0) if q < 0.5 else out[i].max(0))
    return nested(out)


def farther(intervals: Intervals, offsets: Float[np.ndarray, "Q H V"]) -> Intervals:
    """Intervals whose every end lies as far out as their own or that of ``offsets``."""
    below = np.array([q < 0.5 for q in QUANTILES])[:, None, None]
    own = intervals.offsets
    return replace(intervals, offsets=np.where(below, np.minimum(own, offsets), np.maximum(own, offsets)))


def nested(offsets: Float[np.ndarray, "Q H V"]) -> Float[np.ndarray, "Q H V"]:
    """Offsets made to widen outwards from the median, so that no two quantiles cross."""
    out = offsets.copy()
    middle = QUANTILES.index(0.5)
    for i in range(middle - 1, -1, -1):
        out[i] = np.minimum(out[i], out[i + 1])
    for i in range(middle + 1, len(QUANTILES)):
        out[i] = np.maximum(out[i], out[i - 1])
    return out
