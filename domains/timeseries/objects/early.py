"""How soon a light curve is told: the model on the first observations of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64
from matplotlib.figure import Figure

from domains.task import Fitted, Split

from .baselines import boosted
from .closing import over_items
from .collection import Objects
from .items import ObjectItems
from .model import SeriesClassifier
from .statistics import all_features

if TYPE_CHECKING:
    from ..classify import Classify

SHARES = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
MOST = 300  # objects


def truncated(data: Objects, rows: Int64[np.ndarray, "n"], share: float, least: int, shortest: float) -> Objects:
    """Objects of which only the first share of the observations was made, their statistics found anew."""
    series = list(data.series)
    for i in rows:
        series[i] = series[i][: max(least, round(share * len(series[i])))]
    features = data.features.copy()
    kept = [series[i] for i in rows]
    features[rows] = all_features(kept, len(data.channels), shortest, data.longest_period)
    return replace(data, series=tuple(series), features=features)


def early_rows(split: Split) -> Int64[np.ndarray, "n"]:
    """At most MOST of the test objects, evenly spread."""
    rows = split.parts["test"]
    return rows if len(rows) <= MOST else rows[np.linspace(0, len(rows) - 1, MOST).astype(int)]


def early_scores(
    task: Classify, model: SeriesClassifier, data: Objects, split: Split, rows: Int64[np.ndarray, "n"], fitted: Fitted
) -> dict[float, tuple[float, float]]:
    """Share of the observations -> accuracy of the model and of gradient boosting on objects cut there.

    Both saw whole curves in training; boosting learned from training and validation, as among the baselines.
    """
    truth = task.targets(data, rows, fitted)
    known = np.concatenate([split.parts["train"], split.parts["val"]])
    table = lambda d, which: np.concatenate([d.features[which], d.static[which]], 1)  # noqa: E731
    beside = boosted(table(data, known), task.targets(data, known, fitted), len(fitted["classes"]))
    found = {}
    for share in SHARES:
        cut = truncated(data, rows, share, task.config.least, task.config.shortest_period) if share < 1 else data
        z = over_items(model, ObjectItems(cut, rows), model).numpy()
        other = beside(table(cut, rows))
        found[share] = float((z.argmax(1) == truth).mean()), float((other.argmax(1) == truth).mean())
    return found


def early_picture(task: Classify, model: SeriesClassifier, data: Objects, split: Split, fitted: Fitted) -> Figure:
    """Accuracy against the share that was observed."""
    chosen = early_rows(split)
    found = early_scores(task, model, data, split, chosen, fitted)
    counts = np.bincount(task.targets(data, chosen, fitted))
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axis = figure.subplots()
    middle = float(np.median(data.lengths[chosen]))
    for place, (who, mark) in enumerate((("model", "o-"), ("gradient boosting on statistics and periods", "s--"))):
        axis.plot([100 * s for s in found], [both[place] for both in found.values()], mark, label=who)
    axis.axhline(counts.max() / counts.sum(), color="0.6", ls="--", label="most frequent class")
    axis.set(
        xlabel=f"% of the observations, from the first (median of all: {middle:g})", ylabel="accuracy", ylim=(0, 1.02)
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize="small")
    return figure
