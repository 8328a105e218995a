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
from .panels import arranged, bases, grown, own_steps
from .scoring import offsets_at
from .tables import ReadOptions
from .windows import to_device, windows

_FAR = 10.0  # training ranges: a level farther away is taken for another unit
MOST_FOLLOWED = 2000  # newest steps of a file whose errors its intervals follow; fewer of a wide panel:
MOST_NUMBERS = 50_000_000  # forecasts that are made for it
_COLUMNS = ("lo_95", "lo_80", "forecast", "hi_80", "hi_95")  # in the order of QUANTILES


def forecast_file(
    model: Forecaster, fitted: Fitted, source: str, sink: Sink, opened: Callable[..., Any] = load, any_id: bool = False
) -> dict[str, Any]:
    """Forecasts of the ``horizon`` steps after the newest observation of a file, in original units.

    Writes forecast.csv (forecast.parquet for a parquet file): unique_id, ds, forecast, lo_80, hi_80, lo_95, hi_95,
    basis (:func:`.panels.bases`). any_id: of a long frame every series is told, also one that training never saw.
    Returns plain facts. Raises BadInput where the file's series, frequency, length, covariates or units do not match
    what the model was trained on.
    """
    lookback, known = int(fitted["lookback"]), len(fitted["names"])
    raw, panel = known_panel(source, fitted, opened, any_id)
    panel = panel.led(lookback - panel.observed_end)
    end, long = panel.observed_end, any_id and panel.reading.layout == "long"
    check_span(panel, fitted, end, each=not long)
    check_units(panel, fitted, end, lookback)
    _check_covariates(panel, fitted, end)
    own = panel.only(np.arange(len(panel.names)) < known)
    table, followed = _told(model, fitted, own, end)
    if len(panel.names) > known:  # the trained series' forecasts do not hang on who else is in the file
        table = pd.concat([table, _new_ones(model, fitted, panel, end)])
    basis = bases(panel, known, lookback, end, model.any_series)
    table = _finished(table, panel, basis, end) if long else table.assign(basis=np.repeat(basis, len(table) // known))
    name = "forecast.parquet" if raw[:4] == b"PAR1" else "forecast.csv"
    with sink.file(name) as path:
        table.to_parquet(path, index=False) if name.endswith(".parquet") else table.to_csv(path, index=False)
    look = panel.mask[end - lookback : end]
    news = [n for n, b in zip(panel.names, basis, strict=True) if b.startswith("new")]
    return {
        "series": int(table["unique_id"].nunique()),
        "horizon": int(fitted["horizon"]),
        "last_observed": show(panel.times[end - 1]),
        "first_forecast": show(future(panel.times[end - 1], panel.freq, 1)[0]),
        "missing_in_lookback_percent": round(100 * float(1 - look.mean()), 3),
        "new_series": len(news),
        "new_names": news[:20],
        "short_lookbacks": sum("short" in b for b in basis),
        "without_forecast": int(table.groupby("unique_id")["forecast"].apply(lambda c: c.isna().all()).sum()),
        "intervals_followed_steps": followed,
        "output": name,
    }


def known_panel(
    source: str, fitted: Fitted, opened: Callable[..., Any] = load, any_id: bool = False
) -> tuple[bytes, Panel]:
    """A file's bytes, and its series in the order in which the model was trained on them. Raises BadInput.

    any_id: of a long frame all series, unless training had chosen some by ``columns``; see :func:`.panels.arranged`.
    """
    raw, reading, _ = opened(source, _reading(fitted))
    any_id = any_id and not reading.columns
    reading = replace(reading, columns=tuple(fitted["names"]), freq=fitted["freq"])
    return raw, arranged(parse_panel(raw, source, reading, any_id), fitted)


def _told(model: Forecaster, fitted: Fitted, panel: Panel, end: int) -> tuple[pd.DataFrame, int]:
    offsets, followed = followed_offsets(model, fitted, panel, end)
    return tidy(model, fitted, panel, end, offsets), followed


def _new_ones(model: Forecaster, fitted: Fitted, panel: Panel, end: int) -> pd.DataFrame:
    """Rows of the series that training never saw; without values where the network cannot tell them."""
    known, horizon = len(fitted["names"]), int(fitted["horizon"])
    if model.any_series:
        wider, more = grown(model, fitted, panel, end)
        return _told(wider, more, panel, end)[0].iloc[known * horizon :]
    stamps = np.tile(future(panel.times[end - 1], panel.freq, horizon), len(panel.names) - known)
    rows = pd.DataFrame({"unique_id": np.repeat(panel.names[known:], horizon), "ds": stamps})
    return rows.assign(**dict.fromkeys(_VALUES, np.nan))


_VALUES = ["forecast", "lo_80", "hi_80", "lo_95", "hi_95"]


def _finished(table: pd.DataFrame, panel: Panel, basis: list[str], end: int) -> pd.DataFrame:
    """Of a long frame: what there is to say of each series, at its own steps; series that it lacks are left out."""
    horizon, seen = len(table) // len(panel.names), np.asarray(panel.mask[:end])
    table = table.assign(basis=np.repeat(basis, horizon))
    silent = np.repeat(["no value" in b or "not told" in b for b in basis], horizon)
    still = np.repeat(["one value" in b for b in basis], horizon)
    table.loc[silent, _VALUES] = np.nan
    table.loc[still, _VALUES[1:]] = np.nan
    last = end - 1 - seen[::-1].argmax(0)
    ahead = end + np.arange(horizon)[None, :]
    present = np.asarray(seen.any(0))
    keep = ((ahead - last[:, None]) % own_steps(seen)[:, None] == 0) & present[:, None]
    return table[keep.reshape(-1)].reset_index(drop=True)


def followed_offsets(model: Forecaster, fitted: Fitted, panel: Panel, end: int) -> tuple[Tensor | None, int]:
    """Offsets that followed the model's errors on what the file holds of the time after the model's validation part,
    at most MOST_FOLLOWED steps of it, and how many these were; None and 0 where there is nothing to follow."""
    intervals, until = intervals_of(model), fitted["calibrated_until"]
    if intervals.rate == 0 or until is None:
        return None, 0
    seen = panel.times.astype(np.int64) <= until
    horizon = int(fitted["horizon"])
    most = min(MOST_FOLLOWED, max(horizon, MOST_NUMBERS // (horizon * len(panel.names))))
    first = max(int(seen.sum()), end - most, int(fitted["lookback"]))
    if first >= end:
        return None, 0
    source = windows(panel, np.array([end]), int(fitted["lookback"]), horizon, int(fitted["cycle"]))
    offsets = offsets_at(forecasts_of(model), intervals, source, fitted, first, end)
    return torch.from_numpy(offsets).to(model.offsets), end - first


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
    return replace(ReadOptions(**plain), groups=())  # they serve scores alone


def check_span(panel: Panel, fitted: Fitted, end: int, each: bool = True) -> None:
    """Half of the steps of the look-back hold a value, counted from the file's first one; with ``each``, so that every
    series has one there. Raises BadInput."""
    lookback, source = int(fitted["lookback"]), panel.manifest.source
    seen = panel.mask[end - lookback : end]
    steps = np.asarray(seen.any(1))
    begun = min(lookback, end - int(np.asarray(panel.mask.any(1)).argmax()))
    share = float(steps[-begun:].mean())
    if share < 0.5:
        raise BadInput(
            f"{source}: only {100 * share:.0f} % of the last {begun} steps of {fitted['freq']!r} hold any value: "
            f"the file has another frequency than the model was trained on ({fitted['freq']!r}), or is mostly gaps"
        )
    for name, any_seen in zip(panel.names, seen.T, strict=True):
        if each and not any_seen.any():
            raise BadInput(
                f"{source}: series {name!r} has no observed value in the last {lookback} steps to forecast from"
            )


def check_units(panel: Panel, fitted: Fitted, end: int, steps: int | None = None) -> None:
    """Rule: the median of a series' last ``steps`` (default: all) lies within _FAR training ranges of the range."""
    recent = panel.values[0 if steps is None else end - steps : end]
    for v, (name, low, high) in enumerate(zip(fitted["names"], *fitted["range"], strict=True)):
        seen = recent[panel.mask[len(panel.mask[:end]) - len(recent) : end, v], v]
        level = float(np.median(seen)) if len(seen) else low
        if not low - _FAR * (high - low) <= level <= high + _FAR * (high - low):
            raise BadInput(
                f"{panel.manifest.source}: series {name!r} stands at {level:g}, far outside the {low:g} .. {high:g} "
                "that the model was trained on: is it in another unit? Convert it, or train on such values"
            )


def _check_covariates(panel: Panel, fitted: Fitted, end: int) -> None:
    """Future covariates must be there for the whole horizon; static ones must be those of the training."""
    horizon, source = int(fitted["horizon"]), panel.manifest.source
    known = len(fitted["names"])
    if not np.array_equal(panel.static[:known], np.array(fitted["static"]).reshape(known, -1)):
        raise BadInput(f"{source}: static covariates differ from those that the model was trained with")
    ahead = panel.future[end : end + horizon]
    if ahead.shape[1] == len(panel.names):
        ahead = ahead[:, panel.mask[:end].any(0)]
    for k, name in enumerate(fitted["covariates"].get("future", [])):
        missing = np.isnan(ahead[..., k]).any(1)
        if len(ahead) < horizon or missing.any():
            at = int(np.flatnonzero(missing)[0]) if missing.any() else len(ahead)
            stamp = future(panel.times[end - 1], panel.freq, at + 1)[-1]
            raise BadInput(
                f"{source}: future covariate {name!r} is needed for all {horizon} steps after the newest observation "
                f"and is missing at {show(stamp)}; append rows with it and with empty series cells"
            )
