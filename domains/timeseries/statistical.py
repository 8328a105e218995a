"""AutoETS, AutoTheta and AutoARIMA of statsforecast, fitted series by series on a stated few windows: they are slow.

Each fit sees the newest gap-free stretch of history before the origin, at most HISTORY steps of it. A series whose
stretch is too short for its season is not scored in that window: its elements do not count. A seasonal AutoARIMA takes
40 s a fit at a season of 24 hours, so the season is taken out by STL first, and AutoARIMA tells what is left.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from domains.task import Evidence, Fitted

from .config import LEVELS, QUANTILES
from .scoring import score_given
from .windows import Windows

HISTORY = 500
_SHORTEST = 10


def history(
    values: Float[np.ndarray, "T"], mask: Bool[np.ndarray, "T"], origin: int, season: int
) -> Float[np.ndarray, "n"] | None:
    """The observed steps right before ``origin`` without a gap; None where they are too few to fit a season on."""
    start = max(0, origin - max(HISTORY, 5 * season))
    gaps = np.flatnonzero(~mask[start:origin])
    stretch = values[start + (int(gaps[-1]) + 1 if len(gaps) else 0) : origin]
    return stretch if len(stretch) >= max(_SHORTEST, 2 * season + 1) else None


def _forecast(
    build: Callable[[], Any], past: Float[np.ndarray, "n"], horizon: int
) -> tuple[Float[np.ndarray, "H"], Float[np.ndarray, "Q H"]] | None:
    """Point forecast and quantiles of one fit; None where the method gives up on the series."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numerical complaints of a fit: its outcome is checked below
        try:
            found = build().forecast(y=past, h=horizon, level=sorted(LEVELS))
        except Exception:  # third-party optimisers raise what they like: the fit is then not scored
            return None
    point = np.asarray(found["mean"], np.float64)
    quantiles = np.tile(point, (len(QUANTILES), 1))
    for level, (low, high) in LEVELS.items():
        quantiles[low], quantiles[high] = found[f"lo-{level}"], found[f"hi-{level}"]
    return (point, quantiles) if np.isfinite(quantiles).all() else None


def statistical_baselines(source: Windows, fitted: Fitted) -> dict[str, Evidence]:
    """Evidence of the three methods on all windows of ``source``; a method that fitted nothing is left out."""
    from statsforecast.models import MSTL, AutoARIMA, AutoETS, AutoTheta

    season, horizon, series = int(fitted["season"]), source.horizon, source.values.shape[1]
    methods: dict[str, Callable[[], Any]] = {
        "auto_ets": lambda: AutoETS(season_length=season),
        "auto_theta": lambda: AutoTheta(season_length=season),
        "auto_arima": lambda: MSTL(season, trend_forecaster=AutoARIMA()) if season > 1 else AutoARIMA(),
    }
    found = {}
    for name, build in methods.items():
        points = np.full((len(source), horizon, series), np.nan)
        quantiles = np.full((len(QUANTILES), *points.shape), np.nan)
        for w, origin in enumerate(source.origins):
            for v in range(series):
                if not source.mask[origin : origin + horizon, v].any():
                    continue
                past = history(source.values[:, v], source.mask[:, v], int(origin), season)
                result = None if past is None else _forecast(build, past, horizon)
                if result is not None:
                    points[w, :, v], quantiles[:, w, :, v] = result
        if not np.isnan(points).all():
            found[f"{name} ({len(source)} windows)"] = score_given(points, quantiles, source, fitted)
    return found
