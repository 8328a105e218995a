"""The forecasts that a sceptic would try first, scored and given intervals in the same way as the model's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from domains.task import Batch, Evidence, Fitted, Part, Split
from shared_backbones.errors import BadRequest

from .data import Panel
from .dlinear import DLinear, fit_dlinear
from .ridge import WindowRidge, fit_ridge, zscored
from .scoring import Forecast, conformal, scaled_past, score, statistics
from .splits import origins, thinned
from .windows import Windows, windows

MAX_FITS = 128  # of AutoETS, AutoTheta and AutoARIMA each; a panel of more series goes without them


def require_statsforecast() -> None:
    """Raises BadRequest where the package behind AutoETS, AutoTheta and AutoARIMA is not installed."""
    if importlib.util.find_spec("statsforecast") is None:
        raise BadRequest(
            "the baselines AutoETS, AutoTheta and AutoARIMA need statsforecast: pip install 'cambium[timeseries]', "
            "or leave them out with --set ets_origins=0"
        )


def last_observed(
    past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"]
) -> tuple[Float[np.ndarray, "B V"], Bool[np.ndarray, "B V"]]:
    """The newest observed value of each look-back; 0 and False where there is none."""
    if not past.shape[1]:
        return np.zeros((len(past), past.shape[2])), np.zeros((len(past), past.shape[2]), bool)
    steps = np.where(mask, np.arange(1, past.shape[1] + 1)[:, None], 0).max(1)
    value = np.take_along_axis(past, np.maximum(steps - 1, 0)[:, None], 1)[:, 0]
    return np.where(steps > 0, value, 0.0), steps > 0


def repeat_last(
    past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"], horizon: int
) -> Float[np.ndarray, "B H V"]:
    """The newest observed value, ahead unchanged; 0 (the training mean) where the look-back is empty."""
    value, _ = last_observed(past, mask)
    return np.repeat(value[:, None], horizon, 1)


def seasonal_naive(
    past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"], horizon: int, season: int
) -> Float[np.ndarray, "B H V"]:
    """The newest observed value at the same place of the season; where there is none, the newest value."""
    out = repeat_last(past, mask, horizon)
    for ahead in range(min(season, horizon)):
        place = (past.shape[1] + ahead) % season  # counted from the look-back's first step
        value, seen = last_observed(past[:, place::season], mask[:, place::season])
        out[:, ahead::season] = np.where(seen, value, out[:, 0])[:, None]
    return out


def drift(
    past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"], horizon: int
) -> Float[np.ndarray, "B H V"]:
    """The line through the oldest and the newest observed value of each look-back, from the newest on."""
    size = past.shape[1]
    newest, _ = last_observed(past, mask)
    oldest, _ = last_observed(past[:, ::-1], mask[:, ::-1])
    length = size - 1 - mask.argmax(1) - mask[:, ::-1].argmax(1)
    slope = np.where(mask.any(1) & (length > 0), (newest - oldest) / np.maximum(1, length), 0.0)
    since = mask[:, ::-1].argmax(1)  # steps from the newest value to the origin
    ahead = np.arange(1, horizon + 1)[:, None] + since[:, None]
    return np.asarray(newest[:, None] + slope[:, None] * ahead)


def forecaster(name: str, fitted: Fitted, ridge: WindowRidge, linear: DLinear | None = None) -> Forecast:
    """A baseline as a function of a batch in original units, z-scored forecasts out."""
    horizon, season = int(fitted["horizon"]), int(fitted["season"])

    def run(batch: Batch) -> Float[np.ndarray, "B H V"]:
        past, mask = scaled_past(batch, fitted)
        if name == "repeat_last":
            return repeat_last(past, mask, horizon)
        if name == "seasonal_naive":
            return seasonal_naive(past, mask, horizon, season)
        if name == "drift":
            return drift(past, mask, horizon)
        if name == "dlinear" and linear is not None:
            return linear.forecast(past, mask)
        return ridge.forecast(past, mask, batch["phase"].numpy(), horizon)

    return run


def part_windows(data: Panel, split: Split, fitted: Fitted, part: Part) -> Windows:
    """All windows of a part, as the model sees them."""
    lookback, horizon = int(fitted["lookback"]), int(fitted["horizon"])
    return windows(data, origins(split.parts[part], lookback, horizon), lookback, horizon, int(fitted["cycle"]))


def all_baselines(data: Panel, split: Split, fitted: Fitted, ets_origins: int) -> Mapping[str, Evidence]:
    """Every baseline on the test part; the slow per-series ones on ``ets_origins`` windows, as their names state."""
    train, val, test = (part_windows(data, split, fitted, part) for part in ("train", "val", "test"))
    mean, std, _ = statistics(fitted)
    none = np.zeros((int(fitted["cycle"]), len(fitted["names"])))
    fit_on = zscored(train, mean, std), zscored(val, mean, std)
    ridge = fit_ridge(*fit_on, none)
    linear = fit_dlinear(*fit_on, ridge)
    few = fewer(test, ets_origins)
    found: dict[str, Evidence] = {}
    for name in ("repeat_last", "drift", "seasonal_naive", "dlinear", "window_ridge"):
        forecast = forecaster(name, fitted, ridge, linear)
        intervals = conformal(forecast, val, fitted, train.origins)
        found[name] = score(forecast, intervals, test, fitted)
        if name == "window_ridge" and few:  # the same few windows, to read the next two against
            found[f"{name} ({len(few)} windows)"] = score(forecast, intervals, few, fitted)
    if few:
        from .statistical import statistical_baselines

        found |= statistical_baselines(few, fitted)
    part = f"{len(few)} of {len(test)} windows"
    return {name: replace(e, scope=part) if name.endswith("windows)") else e for name, e in found.items()}


def fewer(source: Windows, count: int) -> Windows:
    """Evenly spaced windows, first and last included; no more than MAX_FITS of windows x series."""
    return replace(source, origins=thinned(source.origins, min(count, MAX_FITS // source.values.shape[1])))
