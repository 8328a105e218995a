"""The closed-form window ridge, after a seasonal profile (zeros: none) is taken out.

One map from L past to H future steps, shared by all series, after the mean of the observed look-back is removed:
W = argmin sum |y - m - (x - m) W|^2 + penalty |W|^2 over training windows, the penalty chosen on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from .splits import thinned
from .windows import Windows, rows

PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-1, 7.1, 0.5))
MAX_ROWS = 400_000  # training rows (windows x series); more hardly move a map of L x H numbers
_ROWS_AT_ONCE = 2000
_ROUNDS = 10  # of imputing missing targets by the map's own forecast, where there are any


@dataclass(frozen=True)
class WindowRidge:
    """A fitted map with the seasonal profile that goes with it (zeros: none)."""

    weight: Float[np.ndarray, "L H"]
    cycle: Float[np.ndarray, "C V"]
    penalty: float
    val_mse: float

    def forecast(
        self,
        past: Float[np.ndarray, "B L V"],
        mask: Bool[np.ndarray, "B L V"],
        phase: Int[np.ndarray, "B"],
        horizon: int,
    ) -> Float[np.ndarray, "B H V"]:
        """z-scored look-backs -> z-scored forecasts."""
        lookback = past.shape[1]
        season = self.cycle[(phase[:, None] + np.arange(-lookback, horizon)) % len(self.cycle)]
        x = np.where(mask, past - season[:, :lookback], 0.0)
        mean = x.sum(1, keepdims=True) / np.maximum(1, mask.sum(1, keepdims=True))
        y = np.einsum("blv,lh->bhv", np.where(mask, x - mean, 0.0), self.weight, optimize=True)
        return np.asarray(y + mean + season[:, lookback:])


def zscored(source: Windows, mean: Float[np.ndarray, "V"], std: Float[np.ndarray, "V"]) -> Windows:
    """The same windows in units of the training part's mean and standard deviation."""
    return replace(source, values=np.where(source.mask, (source.values - mean) / std, 0.0))


def without_season(source: Windows, profile: Float[np.ndarray, "C V"]) -> Windows:
    """The same windows with the seasonal profile taken out, 0 where missing."""
    return replace(source, values=np.where(source.mask, source.values - profile[source.phase % len(profile)], 0.0))


def _centred(
    source: Windows, places: Int[np.ndarray, "n"], series: int
) -> tuple[Float[np.ndarray, "r L"], Float[np.ndarray, "r H"], Bool[np.ndarray, "r H"]]:
    """Look-backs and targets less the mean of the observed look-back, of windows that have both."""
    x, seen, y, known = rows(source, places, series, 0.0, 1.0)
    mean = x.sum(1, keepdims=True) / np.maximum(1, seen.sum(1, keepdims=True))
    usable = seen.any(1) & known.any(1)
    return np.where(seen, x - mean, 0.0)[usable], np.where(known, y - mean, 0.0)[usable], known[usable]


def _pieces(source: Windows, most: int) -> list[tuple[np.ndarray, int]]:
    """(places, series) pieces that cover all windows, thinned evenly to at most ``most`` rows in all."""
    count = source.values.shape[1]
    places = thinned(np.arange(len(source)), max(1, most // count))
    cuts = [places[i : i + _ROWS_AT_ONCE] for i in range(0, len(places), _ROWS_AT_ONCE)]
    return [(cut, v) for v in range(count) for cut in cuts]


def _normal_equations(
    source: Windows, weight: Float[np.ndarray, "L H"] | None
) -> tuple[Float[np.ndarray, "L L"], Float[np.ndarray, "L H"], bool]:
    """Moments of the training rows; missing targets stand in as ``weight`` forecasts them (0: the window mean)."""
    gram, cross = np.zeros((source.lookback,) * 2), np.zeros((source.lookback, source.horizon))
    whole = True
    for places, series in _pieces(source, MAX_ROWS):
        x, y, known = _centred(source, places, series)
        if not known.all():
            whole = False
            if weight is not None:
                y = np.where(known, y, x @ weight)
        gram += x.T @ x
        cross += x.T @ y
    return gram, cross, whole


def _val_errors(source: Windows, weights: Sequence[Float[np.ndarray, "L H"]]) -> Float[np.ndarray, "P"]:
    """Mean squared error of each candidate over the observed targets of all validation windows."""
    stacked = np.concatenate(weights, 1).astype(np.float32)
    total, count = np.zeros(len(weights)), 0
    for places, series in _pieces(source, MAX_ROWS):
        x, y, known = _centred(source, places, series)
        for at in range(0, len(x), 500):
            piece = slice(at, at + 500)
            error = (x[piece].astype(np.float32) @ stacked).reshape(-1, len(weights), source.horizon)
            error -= y[piece, None].astype(np.float32)
            error *= known[piece, None]
            total += np.einsum("nph,nph->p", error, error, dtype=np.float64)
        count += int(known.sum())
    return total / max(1, count)


def fit_ridge(
    train: Windows, val: Windows, cycle: Float[np.ndarray, "C V"], penalties: Sequence[float] = PENALTIES
) -> WindowRidge:
    """The ridge on z-scored windows whose seasonal ``cycle`` is taken out first, its penalty chosen on ``val``."""
    train, val = (
        replace(w, values=np.where(w.mask, w.values - cycle[w.phase % len(cycle)], 0.0)) for w in (train, val)
    )
    weights: list[np.ndarray] = []
    errors, best, weight = np.zeros(0), 0, None
    for _ in range(_ROUNDS):
        gram, cross, whole = _normal_equations(train, weight)
        values, vectors = np.linalg.eigh(gram)
        turned = vectors.T @ cross
        weights = [vectors @ (turned / (np.maximum(values, 0) + p)[:, None]) for p in penalties]
        if weight is None or not whole:
            errors = _val_errors(val, weights)
            best = int(errors.argmin())
        weight = weights[best]
        if whole:
            break
    return WindowRidge(weights[best], cycle, penalties[best], float(errors[best]))
