"""Pictures that more than one domain draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .scoring import BINS, confusion
from .task import Evidence


def panel(width: float = 5.0, height: float = 4.0, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of that size in inches per column, and its axes."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def confusion_picture(evidence: Evidence, names: tuple[str, ...]) -> Figure:
    """Cases of :func:`~domains.scoring.class_evidence` by true and predicted class; shades are shares of a row."""
    table = confusion(evidence)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axes = panel(5, 4.5)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    if len(names) <= 15:
        for i, j in np.ndindex(*table.shape):
            axes.text(j, i, f"{table[i, j]:g}", ha="center", va="center", color="w" if share[i, j] > 0.5 else "k")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true", title="test cases")
    return figure


def calibration_picture(evidence: Evidence) -> Figure:
    """Share that is right against confidence, before and after the temperature."""
    c = evidence.columns
    right = c["truth"] == c["guess"]
    figure, axes = panel()
    axes.plot([0, 1], [0, 1], color="0.7")
    for name, label in (("before", "before calibration"), ("confidence", "after")):
        at = np.clip((c[name] * BINS).astype(int), 0, BINS - 1)
        count = np.bincount(at, minlength=BINS)
        full = count > 0
        x = np.bincount(at, c[name], BINS)[full] / count[full]
        axes.plot(x, np.bincount(at, right, BINS)[full] / count[full], "o-", label=label)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1), title="calibration")
    axes.legend()
    return figure
