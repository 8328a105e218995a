"""Scores of rolling-origin forecasts as additive statistics, in bounded memory, and the metrics made of them.

Any forecaster is a function of a batch: ``(batch) -> (B, H, V)`` in z-scored units (mean and standard deviation of
the training part). Rows of the evidence are blocks of neighbouring windows (splits.units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from domains.task import Batch, Evidence, Fitted, MetricFact

from .config import LEVELS, QUANTILES
from .intervals import MAX_ERRORS, Intervals, farther, fit_intervals, offsets_of, pinball, spread_of
from .splits import thinned, units
from .tracking import RATES, Tracker, can_track
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
    "crps": MetricFact("z-scored", "lower", "continuous ranked probability score by five quantiles: twice pinball"),
    "winkler_80": MetricFact("z-scored", "lower", "width of the 80 % interval, and 10 times what lies outside of it"),
    "winkler_95": MetricFact("z-scored", "lower", "width of the 95 % interval, and 40 times what lies outside of it"),
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


@dataclass(frozen=True)
class Scored(Evidence):
    """Evidence, and sums over all windows per step ahead and series, in original units; see :func:`_step_sums`."""

    steps: Mapping[str, Float[np.ndarray, "H V"]] = field(default_factory=dict)


def score(forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted, by_step: bool = False) -> Scored:
    """Evidence of a forecaster over all its windows; a chunk of them is held at a time.

    Intervals follow the errors where ``intervals.rate`` says so and the origins are consecutive. ``by_step``: sums per
    step and series too, in the same pass: a forecaster may take long.
    """
    unit = units(source.origins, source.lookback, source.horizon)
    names, where = np.unique(unit, return_inverse=True)
    sums: dict[str, np.ndarray] = {}
    steps: dict[str, np.ndarray] = {}
    for places, batch, point, offsets in answers(forecast, intervals, source, fitted):
        for name, value in _window_sums(point, offsets, batch, fitted).items():
            total = sums.setdefault(name, np.zeros((len(names), *value.shape[1:])))
            np.add.at(total, where[places], value)
        for name, value in (_step_sums(point, offsets, batch, fitted) if by_step else {}).items():
            steps[name] = steps.get(name, 0.0) + value
    return Scored(names, sums, steps=steps)


_Chunks = Iterator[tuple[np.ndarray, Batch, Float[np.ndarray, "B H V"], Float[np.ndarray, "Q B H V"]]]


def answers(forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted) -> _Chunks:
    """(places, batch, point forecasts, offsets of their intervals) of all windows, a chunk at a time; z-scored."""
    tracker = _tracker(intervals, source)
    if tracker is None:
        return _fixed(forecast, intervals, source, fitted)
    first = int(source.origins[0])
    before = np.arange(max(source.lookback, first - source.horizon), first)
    for _ in _tracked(tracker, forecast, intervals, replace(source, origins=before), fitted, first):
        pass
    return _tracked(tracker, forecast, intervals, source, fitted, first)


def _fixed(forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted) -> _Chunks:
    for places, batch in source.chunks(source.per_window * len(QUANTILES)):
        yield places, batch, forecast(batch), intervals.around(spread_of(*scaled_past(batch, fitted)))


def _tracker(intervals: Intervals, source: Windows) -> Tracker | None:
    _, horizon, series = intervals.offsets.shape
    follows = intervals.rate > 0 and can_track(source.origins, horizon, series)
    return Tracker(intervals.offsets, intervals.rate, horizon, np.arange(horizon)) if follows else None


def _tracked(
    tracker: Tracker, forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted, first: int
) -> _Chunks:
    for places, batch in source.chunks(source.per_window * len(QUANTILES)):
        point, (y, known) = forecast(batch), targets(batch, fitted)
        scale = spread_of(*scaled_past(batch, fitted))[:, None] ** intervals.power
        errors = np.where(known, (y - point) / scale, np.nan)
        yield places, batch, point, tracker.through(source.origins[places], errors, first) * scale


def offsets_at(
    forecast: Forecast, intervals: Intervals, source: Windows, fitted: Fitted, first: int, end: int
) -> Float[np.ndarray, "Q H V"]:
    """Offsets (in units of spread^power) at origin ``end`` that followed the errors on the steps [first, end)."""
    start = max(source.lookback, first - source.horizon)
    part = replace(source, origins=np.arange(start, end))
    tracker = _tracker(intervals, part)
    if tracker is None or first >= end:
        return intervals.offsets
    for _ in _tracked(tracker, forecast, intervals, part, fitted, first + 1):
        pass
    tracker.advance(end)
    return tracker.now()


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


def conformal(forecast: Forecast, val: Windows, fitted: Fitted, trained: Int[np.ndarray, "n"]) -> Intervals:
    """Intervals of a forecaster from its errors on validation windows (evenly thinned where they are many), and of the
    windows with origins ``trained``, those of the training part, where these reach farther.

    The rate at which they follow the errors is the one with the least pinball loss on the later half of validation.
    """
    series = val.values.shape[1]
    kept = np.isin(val.origins, thinned(val.origins, max(1, MAX_ERRORS // (val.horizon * series))))
    steps = thinned(np.arange(val.horizon), max(1, min(_STEPS, MAX_ERRORS // (len(val) * series or 1))))
    errors, known, spread = _blank(int(kept.sum()), val.horizon, series)
    some, some_known, all_spread = _blank(len(val), len(steps), series)
    place = np.cumsum(kept) - 1
    for places, batch in val.chunks(val.per_window):
        y, seen = targets(batch, fitted)
        error, here = y - forecast(batch), kept[places]
        all_spread[places] = spread_of(*scaled_past(batch, fitted))
        some[places], some_known[places] = error[:, steps], seen[:, steps]
        at = place[places][here]
        errors[at], known[at], spread[at] = error[here], seen[here], all_spread[places][here]
    found = fit_intervals(errors, known, spread)
    both = replace(val, origins=np.concatenate([trained, val.origins]))
    found = farther(found, _long_run(forecast, both, fitted, found.power))
    if not can_track(val.origins, val.horizon, series):
        return found
    return replace(found, rate=_rate(val.origins, some, some_known, all_spread, steps, val.horizon))


_LONG_RUN = 2048  # windows of training and validation together whose errors are looked at


def _long_run(forecast: Forecast, both: Windows, fitted: Fitted, power: float) -> Float[np.ndarray, "Q H V"]:
    """Offsets from the errors on training and validation windows together, evenly thinned.

    A validation part of a few horizons is a few draws, however many windows overlap in it: from one horizon of an
    autoregression (0.99, eight series) intervals covered 46 % where 80 were promised, and 80 so. The training part is
    longer, but the forecaster was fitted to it: its errors may widen an interval, never narrow it.
    """
    series = both.values.shape[1]
    source = replace(both, origins=thinned(both.origins, max(1, min(_LONG_RUN, MAX_ERRORS // (both.horizon * series)))))
    errors, known, spread = _blank(len(source), both.horizon, series)
    for places, batch in source.chunks(source.per_window):
        y, known[places] = targets(batch, fitted)
        errors[places], spread[places] = y - forecast(batch), spread_of(*scaled_past(batch, fitted))
    return offsets_of(errors / spread[:, None] ** power, known)


_STEPS = 24  # steps ahead on which a rate is chosen, evenly spaced
_LEAST = 40  # windows that a rate is chosen on


def _blank(count: int, steps: int, series: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((count, steps, series)), np.zeros((count, steps, series), bool), np.ones((count, series))


def _rate(
    origins: np.ndarray, errors: np.ndarray, known: np.ndarray, spread: np.ndarray, steps: np.ndarray, horizon: int
) -> float:
    """The rate whose intervals, fitted on the earlier half of the windows, serve the later half best; the slowest
    where they are few."""
    half = len(errors) // 2
    if len(errors) - half < _LEAST:
        return RATES[0]
    fitted = fit_intervals(errors[:half], known[:half], spread[:half])
    scale = spread[:, None] ** fitted.power
    scaled = np.where(known, errors / scale, np.nan)

    def loss(rate: float) -> float:
        tracker = Tracker(fitted.offsets, rate, horizon, steps)
        offsets = tracker.through(origins, scaled, int(origins[half]))[:, half:]
        return pinball(errors[half:], known[half:], offsets * scale[half:])

    return min(RATES, key=loss)


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
        out[f"winkler_{level}"] = np.where(known, winkler(y - point, offsets[low], offsets[high], level), 0.0).sum(1)
        out[f"step_in_{level}"] = inside.sum(2)
    return {name: value.astype(np.float64) for name, value in out.items()}


def _step_sums(
    point: Float[np.ndarray, "B H V"], offsets: Float[np.ndarray, "Q B H V"], batch: Batch, fitted: Fitted
) -> dict[str, Float[np.ndarray, "H V"]]:
    """Sums over the windows of a batch, per step ahead and series, in original units."""
    _, std, seasonal = statistics(fitted)
    y, known = targets(batch, fitted)
    error = np.where(known, y - point, 0.0)
    pinball = sum(np.maximum(q * (error - o), (q - 1) * (error - o)) for q, o in zip(QUANTILES, offsets, strict=True))
    found = {
        "n": known, "ae": np.abs(error) * std, "se": (error * std) ** 2, "error": error * std,
        "scaled": np.abs(error) * std / seasonal, "crps": 2 * np.where(known, pinball, 0.0) / len(QUANTILES) * std,
    }  # fmt: skip
    for level, (low, high) in LEVELS.items():
        found[f"in_{level}"] = known & (error >= offsets[low]) & (error <= offsets[high])
        found[f"winkler_{level}"] = np.where(known, winkler(error, offsets[low], offsets[high], level) * std, 0.0)
    return {name: value.sum(0, dtype=np.float64) for name, value in found.items()}


def winkler(
    error: Float[np.ndarray, "B H V"], low: Float[np.ndarray, "B H V"], high: Float[np.ndarray, "B H V"], level: int
) -> Float[np.ndarray, "B H V"]:
    """Interval score of "A Decision-Theoretic Approach to Interval Estimation" (Winkler 1972): the width, and
    2 / (1 - level) times the distance of what lies outside; all about the point forecast."""
    outside = np.maximum(low - error, 0) + np.maximum(error - high, 0)
    return np.asarray(high - low + 2 / (1 - level / 100) * outside)


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
        "crps": float(2 * total["pinball"].sum() / count),
        **{f"winkler_{level}": float(total[f"winkler_{level}"].sum() / count) for level in LEVELS},
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
