"""What fills gaps without training a network: all z-scored, fitted on training windows, chosen on validation.

Shapes: B windows, L steps, V series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from domains.task import Batch, Evidence, Fitted

from .items import Gaps
from .model import neighbours, straight
from .scoring import Fill, score, wanted, widths

PENALTIES = (1e-2, 1.0, 1e2, 1e4)
WINDOWS = 512  # training windows that the ridge is fitted on, evenly spread
WIDEST = 512  # series; with more, the ridge across series is left out


def _z(batch: Batch, fitted: Fitted) -> Tensor:
    mean, std = torch.tensor(fitted["mean"]), torch.tensor(fitted["std"])
    return ((batch["values"] - mean) / std).masked_fill(~batch["seen"], 0.0)


def last_value(fitted: Fitted) -> Fill:
    """The newest seen value, or the next one where there is none before."""

    def fill(batch: Batch) -> Float[np.ndarray, "B L V"]:
        z, seen = _z(batch, fitted), batch["seen"]
        before, after = neighbours(seen)
        at = torch.where(before < 0, after, before)
        none = at >= z.shape[1]
        return z.gather(1, at.masked_fill(none, 0)).masked_fill(none, 0.0).numpy()

    return fill


def lines(fitted: Fitted, profile: Float[np.ndarray, "C V"] | None = None) -> Fill:
    """Straight lines over the gaps; with a profile, over those of what it leaves."""
    season = torch.zeros(1, len(fitted["names"]), dtype=torch.float64) if profile is None else torch.from_numpy(profile)

    def fill(batch: Batch) -> Float[np.ndarray, "B L V"]:
        own = season[batch["phase"] % len(season)]
        return (own + straight(_z(batch, fitted) - own, batch["seen"])).numpy()

    return fill


def seasonal_profile(train: Gaps, fitted: Fitted) -> Float[np.ndarray, "C V"]:
    """Mean z-scored value at every place of the season over the training steps, 0 at a place never seen."""
    first, end = int(train.starts[0]), int(train.starts[-1]) + train.config.length
    mask, place = train.mask[first:end], train.phase[first:end]
    z = np.where(mask, (train.values[first:end] - np.asarray(fitted["mean"])) / np.asarray(fitted["std"]), 0.0)
    total, count = (np.zeros((int(fitted["cycle"]), mask.shape[1])) for _ in range(2))
    np.add.at(total, place, z)
    np.add.at(count, place, mask)
    return total / np.maximum(1, count)


def mean_error(fill: Fill, val: Gaps, fitted: Fitted) -> float:
    """Mean squared error of a filler on hidden values."""
    total, count = 0.0, 0
    for _, batch in val.chunks():
        y, asked = wanted(batch, fitted)
        total, count = total + float(((y - fill(batch))[asked] ** 2).sum()), count + int(asked.sum())
    return total / max(1, count)


def ridge(train: Gaps, val: Gaps, fitted: Fitted, start: Fill) -> Float[np.ndarray, "V V"]:
    """Each series from the straight lines of all series at that step: a map that ``start``'s answers go through.

    Ridge regression towards the lines themselves on hidden training values, its penalty chosen on validation.
    """
    rows = np.unique(np.linspace(0, len(train) - 1, min(len(train), WINDOWS)).round().astype(int))
    state = torch.get_rng_state()
    torch.manual_seed(0)  # what is hidden here is always the same
    batch = train.batch(rows.tolist())
    torch.set_rng_state(state)
    y, asked = wanted(batch, fitted)
    x = start(batch)
    series = x.shape[2]
    options: dict[float, np.ndarray] = {mean_error(start, val, fitted): np.eye(series)}
    for penalty in PENALTIES:
        weight = np.eye(series)
        for v in range(series):
            f, t = x[asked[..., v]], y[asked[..., v], v]
            if len(t):
                gram = f.T @ f + penalty * np.eye(series)
                weight[:, v] += np.linalg.solve(gram, f.T @ (t - f[:, v]))  # 0 is the straight line itself
        options[mean_error(mapped(start, weight), val, fitted)] = weight
    return options[min(options)]


def mapped(start: Fill, weight: Float[np.ndarray, "V V"]) -> Fill:
    """``start`` followed by a map across series."""
    return lambda batch: start(batch) @ weight


@dataclass(frozen=True)
class Closed:
    """What a closed form says: a seasonal profile (zeros: none helps), and a map across series (identity: none)."""

    profile: Float[np.ndarray, "C V"]
    across: Float[np.ndarray, "V V"]


def closed_form(train: Gaps, val: Gaps, fitted: Fitted) -> Closed:
    """The profile where validation speaks for it, and the ridge across series."""
    profile, series = seasonal_profile(train, fitted), len(fitted["names"])
    plain, seasonal = lines(fitted), lines(fitted, profile)
    helps = int(fitted["cycle"]) > 1 and mean_error(seasonal, val, fitted) < mean_error(plain, val, fitted)
    if not helps:
        profile = np.zeros_like(profile)
    if not 1 < series <= WIDEST:
        return Closed(profile, np.eye(series))
    return Closed(profile, ridge(train, val, fitted, seasonal if helps else plain))


def all_baselines(train: Gaps, val: Gaps, test: Gaps, fitted: Fitted) -> Mapping[str, Evidence]:
    """On the test part, with intervals of their own from validation."""
    fills: dict[str, Fill] = {
        "training mean": lambda batch: np.zeros(tuple(batch["values"].shape)),
        "last value": last_value(fitted),
        "straight lines": lines(fitted),
    }
    if int(fitted["cycle"]) > 1:
        fills["profile + lines"] = lines(fitted, seasonal_profile(train, fitted))
    found = closed_form(train, val, fitted)
    if 1 < len(fitted["names"]) <= WIDEST:
        fills["ridge across series"] = mapped(lines(fitted, found.profile), found.across)
    return {name: score(fill, widths(fill, val, fitted), test, fitted) for name, fill in fills.items()}
