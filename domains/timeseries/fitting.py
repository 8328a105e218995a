"""Statistics of the training part, and the schema that a new file is held to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from domains.task import Fitted, Split
from shared_backbones.errors import BadInput

from .config import ForecastConfig, TableConfig
from .data import Panel
from .grid import day_steps, season_of, show


def fit_panel(panel: Panel, split: Split, config: ForecastConfig) -> Fitted:
    """Scaling per series and covariate from the training steps alone, with names, frequency and lengths.

    "calibrated_until": the newest stamp of the validation part (ns, or a step's number); later ones were not seen.

    Raises BadInput for a series without observed values, or with one value throughout, in the training part.
    """
    steps = split.parts["train"]
    found = fit_series(panel, split, config)
    return {
        **found,
        "lookback": config.lookback,
        "horizon": config.horizon,
        "seasonal_error": seasonal_error(panel.values[steps], panel.mask[steps], found["season"]).tolist(),
        "calibrated_until": None if panel.reading.time == "none" else stamp(panel.times[split.parts["val"][-1]]),
        "covariates": {role: list(names) for role, names in panel.covariates.items()},
        "static": panel.static.tolist(),
        **_moments("past", panel.past[steps]),
        **_moments("future", panel.future[steps]),
        **_moments("static", panel.static),
    }


def stamp(time: Any) -> int:
    """A stamp as a number: nanoseconds since 1970, or the number of a step."""
    return int(np.asarray(time).astype(np.int64))


def fit_series(panel: Panel, split: Split, config: TableConfig) -> Fitted:
    """What any task needs of the series in the training steps: names, frequency, season, scaling, range.

    Raises BadInput for a series without observed values, or with one value throughout.
    """
    steps = split.parts["train"]
    values, mask = panel.values[steps], panel.mask[steps]
    season = config.season or season_of(panel.freq)
    _refuse(panel, values, mask, (show(panel.times[steps[0]]), show(panel.times[steps[-1]])))
    return {
        "names": list(panel.names),
        "freq": panel.freq,
        "season": season,
        "cycle": cycle_of(panel, season),
        "reading": asdict(panel.reading),
        "mean": np.nanmean(values, 0).tolist(),
        "std": np.nanstd(values, 0).tolist(),
        "range": [np.nanmin(values, 0).tolist(), np.nanmax(values, 0).tolist()],
    }


def cycle_of(panel: Panel, season: int) -> int:
    """Places of the longest seasonal profile: a week where the season is a day of several steps, else the season.

    1 (no profile) where rows are only numbered: the next file's first row has no known place in the season.
    """
    if panel.reading.time == "none":
        return 1
    return 7 * season if season > 1 and season == round(day_steps(panel.freq)) else season


def seasonal_error(
    values: Float[np.ndarray, "T V"], mask: Bool[np.ndarray, "T V"], season: int
) -> Float[np.ndarray, "V"]:
    """Mean absolute error of the seasonal naive forecast inside the training part: what MASE divides by.

    A series that repeats its season exactly gets its mean absolute step instead, or failing that its std.
    """
    out = np.zeros(values.shape[1])
    for lag in (season, 1):
        if lag >= len(values):
            continue
        pairs = mask[lag:] & mask[:-lag]
        error = np.where(pairs, np.abs(values[lag:] - values[:-lag]), 0.0).sum(0) / np.maximum(1, pairs.sum(0))
        out = np.where(out > 0, out, error)
    return np.where(out > 0, out, np.nanstd(values, 0))


def _refuse(panel: Panel, values: np.ndarray, mask: np.ndarray, span: tuple[str, str]) -> None:
    where = f"{panel.manifest.source}: in the training part ({span[0]} .. {span[1]})"
    for v, name in enumerate(panel.names):
        seen = values[mask[:, v], v]
        if not len(seen):
            raise BadInput(
                f"{where} series {name!r} has no observed value; leave it out with `columns`, or split later"
            )
        if seen.min() == seen.max():
            raise BadInput(
                f"{where} series {name!r} is constant ({seen[0]:g}): it has no scale to be trained and scored on; "
                "leave it out with `columns`, or split later"
            )


def _moments(role: str, values: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation per covariate over everything observed; 0 and 1 where there is nothing to scale."""
    flat = values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])
    seen = ~np.isnan(flat)
    count = np.maximum(1, seen.sum(0))
    mean = np.where(seen, flat, 0.0).sum(0) / count
    std = np.sqrt(np.where(seen, (flat - mean) ** 2, 0.0).sum(0) / count)
    return {f"{role}_mean": mean.tolist(), f"{role}_std": np.where(std > 0, std, 1.0).tolist()}
