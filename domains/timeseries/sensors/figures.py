"""The map of the places: who is joined, and who moves with whom."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from domains.task import Fitted, Split

from ..data import Panel
from ..grid import phase
from ..scoring import statistics
from .baselines import weekly_table
from .data import SensorPanel


def sensor_map(data: Panel, split: Split, fitted: Fitted) -> Figure:
    """Correlation of the training values less each place's average hour of the week, beside a given adjacency.

    The hours alone would make all places alike; the diagonal, 1 everywhere, is left blank.
    """
    assert isinstance(data, SensorPanel)
    steps = split.parts["train"]
    usual = weekly_table(data, split, fitted)
    at = phase(data.times, data.freq, len(usual))[steps]
    mean, std, _ = statistics(fitted)
    left = np.where(data.mask[steps], (np.nan_to_num(data.values[steps]) - mean) / std - usual[at], 0.0)
    both = data.mask[steps].astype(float)
    square = (left**2).T @ both  # over the steps at which both were observed
    found = left.T @ left / np.maximum(np.sqrt(square * square.T), 1e-12)
    np.fill_diagonal(found, np.nan)
    pictures = {"correlation of the training values beyond the hour of the week": found}
    if data.adjacency.size:
        pictures["adjacency"] = data.adjacency
    figure = Figure(figsize=(5 * len(pictures), 4.4), layout="constrained")
    for axis, (title, table) in zip(np.atleast_1d(figure.subplots(1, len(pictures))), pictures.items(), strict=True):
        drawn = axis.imshow(table, cmap="viridis")
        figure.colorbar(drawn, ax=axis, shrink=0.8)
        axis.set_title(title, fontsize="small")
        if len(data.names) <= 16:
            axis.set_xticks(range(len(data.names)), data.names, rotation=90, fontsize="x-small")
            axis.set_yticks(range(len(data.names)), data.names, fontsize="x-small")
    return figure
