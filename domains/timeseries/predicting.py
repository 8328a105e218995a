"""The actual future of a new file: checked against what the model was trained on, written as a tidy table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from domains.task import Fitted, Sink
from shared_backbones.errors import BadInput

from .data import Panel, parse_panel
from .grid import future, show
from .model import Forecaster, forecasts_of, intervals_of
from .opening import load
from .scoring import offsets_at
from .tables import ReadOptions
from .windows import to_device, windows

_FAR = 10.0  # training ranges: a level farther away is taken for another unit
MOST_FOLLOWED = 2000  # newest steps of a file whose errors its intervals follow
_COLUMNS = ("lo_95", "lo_80", "forecast", "hi_80", "hi_95")  # in the order of QUANTILES


def forecast_file(
    model: Forecaster, fitted: Fitted, source: str, sink: Sink, opened: Callable[..., Any] = load
) -> dict[str, Any]:
    """Forecasts of the ``horizon`` steps after the newest observation of a file, in original units.

    Writes forecast.csv (forecast.parquet for a parquet file): unique_id, ds, forecast, lo_80, hi_80, lo_95, hi_95.
    Returns plain facts. Raises BadInput where the file's series, frequency, length, covariates or units do not match
    what the model was trained on.
    """
    raw, panel = known_panel(source, fitted, opened)
    end = panel.observed_end
    check_span(panel, fitted, end)
    check_units(panel, fitted, end, int(fitted["lookback"]))
    _check_covariates(panel, fitted, end)
    offsets, followed = followed_offsets(model, fitted, panel, end)
    table = tidy(model, fitted, panel, end, offsets)
    name = "forecast.parquet" if raw[:4] == b"PAR1" else "forecast.csv"
    with sink.file(name) as path:
        table.to_parquet(path, index=False) if name.endswith(".parquet") else table.to_csv(path, index=False)
    look = panel.mask[end - int(fitted["lookback"]) : end]
    return {
        "series": len(panel.names),
        "horizon": int(fitted["horizon"]),
        "last_observed": show(panel.times[end - 1]),
        "first_forecast": show(future(panel.times[end - 1], panel.freq, 1)[0]),
        "missing_in_lookback_percent": round(100 * float(1 - look.mean()), 3),
        "intervals_followed_steps": followed,
        "output": name,
    }


def followed_offsets(model: Forecaster, fitted: Fitted, panel: Panel, end: int) -> tuple[Tensor | None, int]:
    """Offsets that followed the model's errors on what the file holds of the time after the model's validation part,
    at most MOST_FOLLOWED steps of it, and how many these were; None and 0 where there is nothing to follow."""
    intervals, until = intervals_of(model), fitted["calibrated_until"]
    if intervals.rate == 0 or until is None:
        return None, 0
    seen = panel.times <= (np.int64(until) if panel.times.dtype.kind == "i" else np.datetime64(until))
    first = max(int(seen.sum()), end - MOST_FOLLOWED, int(fitted["lookback"]))
    if first >= end:
        return None, 0
    source = windows(panel, np.array([end]), int(fitted["lookback"]), int(fitted["horizon"]), int(fitted["cycle"]))
    offsets = offsets_at(forecasts_of(model), intervals, source, fitted, first, end)
    return torch.from_numpy(offsets).to(model.offsets), end - first


def known_panel(source: str, fitted: Fitted, opened: Callable[..., Any] = load) -> tuple[bytes, Panel]:
    """A file's bytes, and its series in the order in which the model was trained on them. Raises BadInput."""
    raw, reading, _ = opened(source, _reading(fitted))
    reading = replace(reading, columns=tuple(fitted["names"]), freq=fitted["freq"])
    return raw, _in_order(parse_panel(raw, source, reading), fitted)


def tidy(model: Forecaster, fitted: Fitted, panel: Panel, end: int, offsets: Tensor | None = None) -> pd.DataFrame:
    """One row per series and step ahead of ``end``, in original units; ``offsets`` of the intervals as in the model."""
    lookback, horizon = int(fitted["lookback"]), int(fitted["horizon"])
    window = windows(panel, np.array([end]), lookback, horizon, int(fitted["cycle"]))
    was = model.training
    model.eval()
    with torch.inference_mode():
        z = model.quantiles(to_device(window.batch([0]), model.mean.device), offsets)
        ahead: Float[np.ndarray, "Q H V"] = model.original(z)[0].cpu().numpy()
    model.train(was)
    stamps = future(panel.times[end - 1], panel.freq, horizon)
    table = {"unique_id": np.repeat(panel.names, horizon), "ds": np.tile(stamps, len(panel.names))}
    table |= {name: values.T.reshape(-1) for name, values in zip(_COLUMNS, ahead, strict=True)}
    return pd.DataFrame(table)[["unique_id", "ds", "forecast", "lo_80", "hi_80", "lo_95", "hi_95"]]


def _reading(fitted: Fitted) -> ReadOptions:
    """How the training file was read; JSON has lists where the options have tuples."""
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fitted["reading"].items()}
    return ReadOptions(**plain)


def _in_order(panel: Panel, fitted: Fitted) -> Panel:
    """The panel's series in the order that the model was trained on (a long frame sorts them by name)."""
    order = [panel.names.index(name) for name in fitted["names"]]
    pick = lambda a: a if a.shape[1] == 1 and len(panel.names) > 1 else a[:, order]  # noqa: E731
    return replace(
        panel, names=tuple(fitted["names"]), values=panel.values[:, order], mask=panel.mask[:, order],
        past=pick(panel.past), future=pick(panel.future), static=panel.static[order],
    )  # fmt: skip


def check_span(panel: Panel, fitted: Fitted, end: int) -> None:
    lookback, source = int(fitted["lookback"]), panel.manifest.source
    if end < lookback:
        raise BadInput(
            f"{source}: too short: {end} steps up to the newest observation ({show(panel.times[end - 1])}), the model "
            f"looks back on {lookback}. Give a longer file, or train with a shorter lookback"
        )
    seen = panel.mask[end - lookback : end]
    share = float(seen.any(1).mean())
    if share < 0.5:
        raise BadInput(
            f"{source}: only {100 * share:.0f} % of the last {lookback} steps of {fitted['freq']!r} hold any value: "
            f"the file has another frequency than the model was trained on ({fitted['freq']!r}), or is mostly gaps"
        )
    for name, any_seen in zip(panel.names, seen.T, strict=True):
        if not any_seen.any():
            raise BadInput(
                f"{source}: series {name!r} has no observed value in the last {lookback} steps to forecast from"
            )


def check_units(panel: Panel, fitted: Fitted, end: int, steps: int | None = None) -> None:
    """Rule: the median of a series' last ``steps`` (default: all) lies within _FAR training ranges of the range."""
    recent = np.nanmedian(panel.values[0 if steps is None else end - steps : end], 0)
    for name, level, low, high in zip(panel.names, recent, *fitted["range"], strict=True):
        if not low - _FAR * (high - low) <= level <= high + _FAR * (high - low):
            raise BadInput(
                f"{panel.manifest.source}: series {name!r} stands at {level:g}, far outside the {low:g} .. {high:g} "
                "that the model was trained on: is it in another unit? Convert it, or train on such values"
            )


def _check_covariates(panel: Panel, fitted: Fitted, end: int) -> None:
    """Future covariates must be there for the whole horizon; static ones must be those of the training."""
    horizon, source = int(fitted["horizon"]), panel.manifest.source
    if not np.array_equal(panel.static, np.array(fitted["static"]).reshape(panel.static.shape)):
        raise BadInput(f"{source}: static covariates differ from those that the model was trained with")
    ahead = panel.future[end : end + horizon]
    for k, name in enumerate(fitted["covariates"].get("future", [])):
        missing = np.isnan(ahead[..., k]).any(1)
        if len(ahead) < horizon or missing.any():
            at = int(np.flatnonzero(missing)[0]) if missing.any() else len(ahead)
            stamp = future(panel.times[end - 1], panel.freq, at + 1)[-1]
            raise BadInput(
                f"{source}: future covariate {name!r} is needed for all {horizon} steps after the newest observation "
                f"and is missing at {show(stamp)}; append rows with it and with empty series cells"
            )
