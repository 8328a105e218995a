"""Statistics of a light curve: order-free per band, colours, and the shape at its period."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from domains.threads import one_thread

from .collection import BAND, ERROR, VALUE
from .periods import HARMONICS, best_period, fourier_fit

GLOBAL = ("log_period", "log_lomb_scargle", "power", "explained", "log_observations", "log_span")
PER_BAND = ("median", "deviation", "range", "skewness", "kurtosis", "asymmetry", "smoothness", "noise")
SHAPE = ("amplitude", "r21", "r31", "phase21_cos", "phase21_sin")


def feature_names(bands: Sequence[str]) -> tuple[str, ...]:
    """In the order of :func:`light_curve_features`."""
    own = [f"{b}_{name}" for b in bands for name in (*PER_BAND, *SHAPE)]
    colours = [f"{a}_minus_{b}" for a, b in itertools.pairwise(bands)]
    return (*GLOBAL, *own, *colours)


def _order_free(mine: Float[np.ndarray, "n 4"]) -> list[float]:
    y = mine[:, VALUE]
    low, middle, high = np.percentile(y, [5, 50, 95])
    std = float(y.std())
    z = (y - y.mean()) / max(std, 1e-9)
    smooth = float((np.diff(y) ** 2).mean() / max(std**2, 1e-18)) if len(y) > 2 else np.nan
    known = mine[np.isfinite(mine[:, ERROR]), ERROR]
    noise = float(np.median(known)) / max(std, 1e-9) if len(known) else np.nan
    asymmetry = float((high - middle) / (high - low)) if high > low else np.nan
    return [float(middle), std, float(high - low), float((z**3).mean()), float((z**4).mean()), asymmetry, smooth, noise]


def _shape(found: Float[np.ndarray, "p"] | None) -> list[float]:
    if found is None:
        return [np.nan] * len(SHAPE)
    cosine, sine = found[1::2], found[2::2]
    size, phase = np.hypot(cosine, sine), np.arctan2(sine, cosine)
    first = max(float(size[0]), 1e-9)
    turn = phase[1] - 2 * phase[0]
    return [float(size[0]), float(size[1] / first), float(size[2] / first), float(np.cos(turn)), float(np.sin(turn))]


def light_curve_features(
    curve: Float[np.ndarray, "n 4"], bands: int, shortest: float, longest: float | None
) -> Float[np.ndarray, "F"]:
    """Statistics as named by :func:`feature_names`, NaN where they cannot be had.

    Periods are looked for from ``shortest`` to ``longest``, or to half of the span that the object was observed for.
    """
    span = float(np.ptp(curve[:, 0]))
    found = best_period(curve, shortest, max(2 * shortest, span / 2 if longest is None else longest))
    period = found["period"]
    shapes = {}
    if np.isfinite(period):
        shapes = {b: c[0] for b, c in fourier_fit(curve, np.array([1 / period]), HARMONICS)[1].items()}
    row = [np.log(period), np.log(found["lomb_scargle"]), found["power"], found["explained"], np.log(len(curve)),
           np.log(max(span, 1e-9))]  # fmt: skip
    medians = []
    for b in range(bands):
        mine = curve[curve[:, BAND] == b]
        row += _order_free(mine) if len(mine) >= 2 else [np.nan] * len(PER_BAND)
        row += _shape(shapes.get(b))
        medians.append(float(np.median(mine[:, VALUE])) if len(mine) else np.nan)
    return np.array([*row, *(a - b for a, b in itertools.pairwise(medians))])


def all_features(
    curves: Sequence[Float[np.ndarray, "_ 4"]], bands: int, shortest: float, longest: float | None
) -> Float[np.ndarray, "n F"]:
    """One row per light curve."""
    with one_thread():
        return np.stack([light_curve_features(c, bands, shortest, longest) for c in curves])
