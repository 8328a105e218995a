"""The map of the places: who is joined, and who moves with whom."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from domains.task import Split

from ..data import Panel
from .data import SensorPanel


def sensor_map(data: Panel, split: Split) -> Figure:
    """Correlation of the training values less each place's mean, beside the adjacency where there is one."""
    assert isinstance(data, SensorPanel)
    values = data.values[split.parts["train"]]
    z = np.nan_to_num((values - np.nanmean(values, 0)) / np.maximum(np.nanstd(values, 0), 1e-12))
    pictures = {"correlation of the training values": z.T @ z / len(z)}
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
