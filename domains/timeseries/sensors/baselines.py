"""The forecast that knows only the hour of the week."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from domains.task import Batch, Fitted, Split

from ..data import Panel
from ..grid import phase
from ..scoring import Forecast, statistics


def weekly_table(data: Panel, split: Split, fitted: Fitted) -> Float[np.ndarray, "C V"]:
    """The training mean of each place at each step of the cycle, z-scored; 0, the place's mean, where never seen."""
    mean, std, _ = statistics(fitted)
    cycle, steps = int(fitted["cycle"]), split.parts["train"]
    at = phase(data.times, data.freq, cycle)[steps]
    z = np.where(data.mask[steps], (np.nan_to_num(data.values[steps]) - mean) / std, 0.0)
    total, count = np.zeros((cycle, z.shape[1])), np.zeros((cycle, z.shape[1]))
    np.add.at(total, at, z)
    np.add.at(count, at, data.mask[steps].astype(float))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), 0.0))


def historical_average(data: Panel, split: Split, fitted: Fitted) -> Forecast:
    """The forecast that repeats :func:`weekly_table`."""
    table, cycle = weekly_table(data, split, fitted), int(fitted["cycle"])
    ahead = np.arange(int(fitted["horizon"]))

    def run(batch: Batch) -> Float[np.ndarray, "B H V"]:
        return np.asarray(table[(batch["phase"].numpy()[:, None] + ahead) % cycle])

    return run
