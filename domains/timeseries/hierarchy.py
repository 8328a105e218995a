"""Scores in original units per series, per step ahead, and of sums: bottom-up over the groups that a panel declares.

A sum is known where all its members are. Its forecast is the sum of theirs; its intervals are calibrated on its own
errors, as a series' are, since quantiles do not add up. Shapes: B windows, H horizon, V series, G sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from domains.task import Batch, Fitted, Part

from .config import LEVELS
from .data import Panel
from .fitting import seasonal_error
from .scoring import Forecast, Scored, conformal, score, statistics
from .splits import origins
from .windows import Windows

MOST_ROWS = 200_000  # of the table by step; a panel of more has the table by series alone
TOTAL = "all"


def members(panel: Panel) -> dict[tuple[str, str], Float[np.ndarray, "V"]]:
    """(level, name) -> 1 for every series that belongs to it: each label of each grouping column, and all."""
    found = {(TOTAL, TOTAL): np.ones(len(panel.names))} if panel.groups else {}
    for column, labels in panel.groups.items():
        for label in sorted(set(labels)):
            found[column, label] = np.array([float(x == label) for x in labels])
    return found


@dataclass(frozen=True)
class Summed(Windows):
    """Windows over sums of series; a batch also holds that of the series themselves, under "base"."""

    base: Windows | None = None

    def batch(self, indices: Any) -> Batch:
        assert self.base is not None
        own = dict(super().batch(indices))
        at = self.origins[np.asarray(indices, dtype=np.int64)]
        below = replace(self.base, origins=at).batch(range(len(at)))
        return own | {f"base.{name}": value for name, value in below.items()}

    @property
    def per_window(self) -> int:
        assert self.base is not None
        return self.base.per_window + (self.lookback + 2 * self.horizon) * self.values.shape[1]


def summed(source: Windows, matrix: Float[np.ndarray, "G V"]) -> Summed:
    """Windows over the sums that the rows of ``matrix`` name, with those of the series below."""
    mask = (matrix @ (~source.mask).T.astype(float)).T == 0
    values = np.where(mask, np.where(source.mask, source.values, 0.0) @ matrix.T, 0.0)
    known = {name: getattr(source, name) for name in ("origins", "lookback", "horizon", "phase", "calendar")}
    none = np.zeros((len(values), 1, 0))
    return Summed(values=values, mask=mask, past=none, future=none, base=source, **known)


def fit_sums(panel: Panel, steps: np.ndarray, matrix: Float[np.ndarray, "G V"], fitted: Fitted) -> Fitted:
    """Scale and seasonal error of each sum over the training steps at which it is known; NaN where there are none."""
    mask = (matrix @ (~panel.mask[steps]).T.astype(float)).T == 0
    values = np.where(mask, np.where(panel.mask[steps], panel.values[steps], 0.0) @ matrix.T, np.nan)
    number = np.maximum(1, mask.sum(0))
    mean = np.where(mask, values, 0.0).sum(0) / number
    std = np.sqrt(np.where(mask, (values - mean) ** 2, 0.0).sum(0) / number)
    std = np.where(std > 0, std, 1.0)
    error = seasonal_error(np.where(mask, values, mean), mask, int(fitted["season"]))
    return {
        **fitted,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "seasonal_error": np.where(error > 0, error, std).tolist(),
    }


def from_below(forecast: Forecast, matrix: Float[np.ndarray, "G V"], below: Fitted, sums: Fitted) -> Forecast:
    """The sums of a forecaster's answers, z-scored by the scale of the sums."""
    mean, std, _ = statistics(below)
    of_mean, of_std, _ = statistics(sums)

    def run(batch: Batch) -> Float[np.ndarray, "B H G"]:
        own = {name.removeprefix("base."): value for name, value in batch.items() if name.startswith("base.")}
        total = (forecast(own) * std + mean) @ matrix.T
        return np.asarray((total - of_mean) / of_std)

    return run


def _row(sums: Mapping[str, Any]) -> dict[str, Any]:
    n = int(sums["n"])
    mean = lambda name: float(sums[name]) / n if n else None  # noqa: E731
    return {
        "n": n, "mae": mean("ae"), "rmse": (float(sums["se"]) / n) ** 0.5 if n else None, "bias": mean("error"),
        "mase": mean("scaled"), "crps": mean("crps"),
        **{f"coverage_{p}": 100 * float(sums[f"in_{p}"]) / n if n else None for p in LEVELS},
        **{f"winkler_{p}": mean(f"winkler_{p}") for p in LEVELS},
    }  # fmt: skip


def rows_of(
    named: list[tuple[str, str]], sums: Mapping[str, Float[np.ndarray, "H V"]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(one row per series, one per series and step ahead), in original units."""
    whole, steps = [], []
    for v, (level, name) in enumerate(named):
        start = {"level": level, "name": name}
        whole.append(start | _row({key: value[:, v].sum() for key, value in sums.items()}))
        steps += [start | {"step": h + 1} | _row({k: x[h, v] for k, x in sums.items()}) for h in range(len(sums["n"]))]
    return whole, steps


def tables(
    scored: Scored,
    forecast: Forecast,
    panel: Panel,
    fitted: Fitted,
    parts: Mapping[Part, Windows],
    train: np.ndarray,
) -> dict[str, list[dict[str, Any]]]:
    """Tables of the test part: by series, by series and step, and of the declared groups and all.

    scored: of the test part, by step; parts: the windows of "val" and "test"; train: the training steps.
    """
    found = [rows_of([("series", name) for name in panel.names], scored.steps)]
    groups = members(panel)
    if groups:
        matrix = np.stack(list(groups.values()))
        own = fit_sums(panel, train, matrix, fitted)
        run = from_below(forecast, matrix, fitted, own)
        val, test = summed(parts["val"], matrix), summed(parts["test"], matrix)
        reached = conformal(run, val, own, origins(train, val.lookback, val.horizon))
        found.append(rows_of(list(groups), score(run, reached, test, own, by_step=True).steps))
    whole, steps = ([row for part in found for row in part[i]] for i in (0, 1))
    return {"scores by series": whole} | ({"scores by step": steps} if len(steps) <= MOST_ROWS else {})
