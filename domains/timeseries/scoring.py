"""Scores of rolling-origin forecasts as additive statistics, in bounded memory, and the metrics made of them.

Any forecaster is a function of a batch: ``(batch) -> (B, H, V)`` in z-scored units (mean and standard deviation of
the training part). Rows of the evidence are blocks of neighbouring windows (splits.units).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from domains.task import Batch, Evidence, Fitted, MetricFact

from .config import LEVELS, QUANTILES
from .intervals import MAX_ERRORS, Intervals, fit_intervals, spread_of
from .splits import thinned, units
from .windows import Windows

Forecast = Callable[[Batch], Float[np.ndarray, "B H V"]]

FACTS: dict[str, MetricFact] = {
    "mse": MetricFact("z-scored", "lower", "mean squared error over all windows, steps and series"),
    "mae": MetricFact("z-scored", "lower", "mean absolute error over all windows, steps and series"),
    "mase": MetricFact("1", "lower", "mean absolute error over that of the in-sample seasonal naive forecast"),
    "wape": MetricFact(
        "1", "lower", "sum of absolute errors over sum of absolute values, original units, mean of series"
    ),
    "pinball": MetricFact("z-scored", "lower", "mean pinball loss of the quantiles 2.5, 10, 50, 90 and 97.5 %"),
    "coverage_80": MetricFact("%", "target", "share of values inside the 80 % interval", target=80.0),
    "coverage_95": MetricFact("%", "target", "share of values inside the 95 % interval", target=95.0),
}


def statistics(fitted: Fitted) -> tuple[Float[np.ndarray, "V"], Float[np.ndarray, "V"], Float[np.ndarray, "V"]]:
    """Mean, standard deviation and in-sample seasonal error (original units) per series."""
    return tuple(np.asarray(fitted[key], np.float64) for key in ("mean", "std", "seasonal_error"))  # type: ignore[return-value]


def targets(batch: Batch, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """z-scored targets (B, H, V), 0 where missing, and their mask."""
    mean, std, _ = statistics(fitted)
    known = batch["future_mask"].numpy()
    return np.where(known, (batch["future"].numpy() - mean) / std, 0.0), known


def scaled_past(batch: Batch, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """z-scored look-backs (B, L, V), 0 where missing, and their mask."""
    mean, std, _ = statistics(fitted)
    mask = batch["past_mask"].numpy()
    return np.where(mask, (batch["past"].numpy() - mean) / std, 0.0), mask


def score(forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted) -> Evidence:
    """Evidence of a forecaster over all its windows; a chunk of them is held at a time."""
    unit = units(source.origins, source.lookback, source.horizon)
    names, where = np.unique(unit, return_inverse=True)
    sums: dict[str, np.ndarray] = {}
    for places, batch in source.chunks(source.per_window * len(QUANTILES)):
        offsets = intervals.around(spread_of(*scaled_past(batch, fitted)))
        for name, value in _window_sums(forecast(batch), offsets, batch, fitted).items():
            total = sums.setdefault(name, np.zeros((len(names), *value.shape[1:])))
            np.add.at(total, where[places], value)
    return Evidence(names, sums)


def score_given(
    points: Float[np.ndarray, "n H V"], quantiles: Float[np.ndarray, "Q n H V"], source: Windows, fitted: Fitted
) -> Evidence:
    """Evidence of ready forecasts in original units; NaN: no forecast, the element does not count."""
    mean, std, _ = statistics(fitted)
    batch = dict(source.batch(range(len(source))))
    batch["future_mask"] = batch["future_mask"] & torch.from_numpy(~np.isnan(points))
    points, quantiles = np.nan_to_num(points), np.nan_to_num(quantiles)
    sums = _window_sums((points - mean) / std, (quantiles - points) / std, batch, fitted)
    return Evidence(units(source.origins, source.lookback, source.horizon), sums)


def conformal(forecast: Forecast, val: Windows, fitted: Fitted) -> Intervals:
    """Intervals of a forecaster from its errors on validation windows (evenly thinned where they are many)."""
    series = val.values.shape[1]
    val = replace(val, origins=thinned(val.origins, max(1, MAX_ERRORS // (val.horizon * series))))
    errors = np.zeros((len(val), val.horizon, series))
    known, spread = np.zeros(errors.shape, bool), np.ones((len(val), series))
    for places, batch in val.chunks(val.per_window):
        y, known[places] = targets(batch, fitted)
        errors[places] = y - forecast(batch)
        spread[places] = spread_of(*scaled_past(batch, fitted))
    return fit_intervals(errors, known, spread)


def _window_sums(
    point: Float[np.ndarray, "B H V"], offsets: Float[np.ndarray, "Q B H V"], batch: Batch, fitted: Fitted
) -> Mapping[str, np.ndarray]:
    """Sums over the steps of each window, per series; ``step_*`` are sums over series, per step ahead."""
    mean, std, seasonal = statistics(fitted)
    y, known = targets(batch, fitted)
    error = np.where(known, y - point, 0.0)
    absolute = np.abs(error)
    pinball = np.zeros_like(error)
    for q, offset in zip(QUANTILES, offsets, strict=True):
        gap = y - (point + offset)
        pinball += np.where(known, np.maximum(q * gap, (q - 1) * gap), 0.0) / len(QUANTILES)
    out = {
        "n": known.sum(1),
        "se": (error**2).sum(1),
        "ae": absolute.sum(1),
        "scaled_ae": absolute.sum(1) * std / seasonal,
        "abs_y": np.where(known, np.abs(y * std + mean), 0.0).sum(1),
        "abs_error": absolute.sum(1) * std,
        "squared_error": (error**2).sum(1) * std**2,
        "pinball": pinball.sum(1),
        "step_n": known.sum(2),
        "step_se": (error**2).sum(2),
        "step_ae": absolute.sum(2),
    }
    for level, (low, high) in LEVELS.items():
        inside = known & (y >= point + offsets[low]) & (y <= point + offsets[high])
        out[f"in_{level}"] = inside.sum(1)
        out[f"step_in_{level}"] = inside.sum(2)
    return {name: value.astype(np.float64) for name, value in out.items()}


def metrics(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS, each a mean over observed elements; NaN where nothing was observed."""
    total = {name: evidence.sum(name) for name in evidence.columns if not name.startswith("step_")}
    count = total["n"].sum()
    if count <= 0:
        return dict.fromkeys(FACTS, float("nan"))
    scored = total["abs_y"] > 0
    wape = float(np.mean(total["abs_error"][scored] / total["abs_y"][scored])) if scored.any() else float("nan")
    return {
        "mse": float(total["se"].sum() / count),
        "mae": float(total["ae"].sum() / count),
        "mase": float(total["scaled_ae"].sum() / count),
        "wape": wape,
        "pinball": float(total["pinball"].sum() / count),
        **{f"coverage_{level}": float(100 * total[f"in_{level}"].sum() / count) for level in LEVELS},
    }


def by_series(evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
    """One row per series: MSE and MAE z-scored, MAE in original units, MASE and coverage; None where never observed."""
    total = {name: evidence.sum(name) for name in evidence.columns if not name.startswith("step_")}
    mean = lambda name, v: float(total[name][v] / total["n"][v]) if total["n"][v] else None  # noqa: E731
    found = []
    for v, name in enumerate(fitted["names"]):
        row: dict[str, Any] = {"series": name, "n": int(total["n"][v])}
        row |= {"mse": mean("se", v), "mae": mean("ae", v), "mae_original": mean("abs_error", v)}
        row |= {"mase": mean("scaled_ae", v)} | {f"coverage_{p}": mean(f"in_{p}", v) for p in LEVELS}
        found.append(row)
    return found
