"""Pictures of forecasts on the nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from domains.task import Evidence, Fitted

from .data.signals import Signals

_MODEL, _TRUTH = "#0072b2", "#222222"  # colour-blind safe (Okabe and Ito)


def draw(
    data: Signals,
    steps: Int[np.ndarray, "n"],
    points: Float[np.ndarray, "n N"],
    fitted: Fitted,
    scored: Mapping[str, Evidence],
) -> dict[str, Figure]:
    """Title -> figure: forecasts of the best and the worst node, error by node, error in time."""
    return {
        "Forecasts of the best and the worst node": lines(data, steps, points, scored["model"]),
        "Error by node, and by its number of neighbours": by_node(data, fitted, scored),
        "Error over the test part": in_time(steps, scored),
    }


def lines(data: Signals, steps: Int[np.ndarray, "n"], points: Float[np.ndarray, "n N"], evidence: Evidence) -> Figure:
    """Observed values and one-step forecasts over the test part."""
    order = np.argsort(evidence.sum("se"))
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axis, node in zip(figure.subplots(2, 1), (int(order[0]), int(order[-1])), strict=True):
        axis.plot(steps, data.values[steps, node], color=_TRUTH, lw=0.9, label="observed")
        axis.plot(steps, points[:, node], color=_MODEL, lw=1.2, label="forecast, one step ahead")
        axis.set_title(data.names[node], fontsize=10)
        axis.set_ylabel("units of the file")
    figure.axes[0].legend(fontsize=8, ncols=2)
    figure.axes[1].set_xlabel("step")
    return figure


def by_node(data: Signals, fitted: Fitted, scored: Mapping[str, Evidence]) -> Figure:
    """Mean squared error per node, sorted by the model's; and against the number of neighbours."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    mse = {name: e.sum("se") / e.sum("n") for name, e in scored.items() if name in ("model", "AR(4)")}
    order = np.argsort(mse["model"])
    for name, values in mse.items():
        left.plot(values[order], "o-", ms=3, lw=0.8, label=name, color=_MODEL if name == "model" else "#e69f00")
    left.set_xticks(range(len(order)), [fitted["names"][i] for i in order], rotation=90, fontsize=7)
    left.set_ylabel("mean squared error")
    left.legend(fontsize=8)
    degree = np.bincount(data.edges[1], minlength=len(data.names))
    right.scatter(degree, mse["model"], s=14, color=_MODEL)
    right.set_xlabel("neighbours")
    return figure


def in_time(steps: Int[np.ndarray, "n"], scored: Mapping[str, Evidence]) -> Figure:
    """Mean squared error of each block of test steps."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    for name, evidence in scored.items():
        if name in ("model", "AR(4)", "persistence", "zero"):
            axis.plot(evidence.columns["se"].sum(1) / evidence.columns["n"].sum(1), "o-", ms=3, label=name)
    axis.set_xlabel(f"block of test steps, from step {int(steps[0])}")
    axis.set_ylabel("mean squared error")
    axis.legend(fontsize=8)
    return figure
