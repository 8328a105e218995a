"""Pictures of timeseries/pretrain: rollouts beside what came, and the error of each step ahead."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from domains.task import Evidence, Fitted

from ..figures import named
from .mixture import Series
from .model import Pretrained, told_by


def all_figures(
    model: Pretrained, items: Series, fitted: Fitted, scored: Mapping[str, Evidence]
) -> Mapping[str, Figure]:
    """Title -> picture."""
    return {"A rollout of each table": rollouts(model, items, fitted), "Error by step ahead": by_step(fitted, scored)}


def rollouts(model: Pretrained, items: Series, fitted: Fitted) -> Figure:
    """The middle window of each table, z-scored: look-back, what came, what was told."""
    names = list(fitted["tables"])
    figure = Figure(figsize=(10, 2.4 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for p, (name, axis) in enumerate(zip(names, axes, strict=True)):
        mine = np.flatnonzero(items.places[:, 0] == p)
        row = int(mine[len(mine) // 2])
        batch = items.batch([row])
        x, t = batch["x"][0].numpy(), np.arange(-items.lookback, items.ahead)
        axis.plot(t, np.where(batch["seen"][0], x, np.nan), color="0.4", lw=0.9, label="observed")
        axis.plot(t[items.lookback :], told_by(model, batch, items.ahead)[0], color="#d55e00", label="rolled out")
        axis.axvline(0, color="0.8")
        axis.set_title(f"{name}: {fitted['tables'][name]['names'][items.places[row, 1]]}", fontsize="small")
    named(figure, axes[0])
    axes[-1].set_xlabel("steps from the origin")
    return figure


def by_step(fitted: Fitted, scored: Mapping[str, Evidence]) -> Figure:
    """Mean squared error of each step ahead, of each table."""
    names = list(fitted["tables"])
    figure = Figure(figsize=(4.6 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for p, (name, axis) in enumerate(zip(names, axes, strict=True)):
        for who, evidence in scored.items():
            axis.plot(1 + np.arange(evidence.sum("n").shape[1]),
                      evidence.sum("se")[p] / np.maximum(1, evidence.sum("n")[p]), lw=1, label=who)  # fmt: skip
        axis.set(title=name, xlabel="steps ahead", ylabel="MSE, z-scored")
    axes[0].legend(fontsize="x-small")
    return figure
