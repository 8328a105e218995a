"""Pictures of interactions in time, and of how well the next partner is found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..task import Evidence, Split
from .data.events import Events

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def draw(data: Events, split: Split, scored: Mapping[str, Evidence]) -> dict[str, Figure]:
    """Title -> figure."""
    return {
        "Random and historical negatives": by_kind(scored),
        "Reciprocal rank over the test part": in_time(scored),
        "Interactions in time": activity(data, split),
    }


def by_kind(scored: Mapping[str, Evidence]) -> Figure:
    """Mean reciprocal rank against each kind of negatives."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(scored)
    for i, ((name, e), colour) in enumerate(zip(scored.items(), _COLOURS, strict=False)):
        means = [float(e.sum("mrr" + k) / max(1.0, e.sum("n" + k))) for k in ("_random", "_historical")]
        axis.bar(np.arange(2) + i * width, means, width, label=name, color=colour)
    axis.set_xticks(np.arange(2) + 0.4 - width / 2, ["random negatives", "historical negatives"])
    axis.set_ylabel("mean reciprocal rank")
    axis.legend(fontsize=8)
    return figure


def in_time(scored: Mapping[str, Evidence]) -> Figure:
    """Mean reciprocal rank of each block of test interactions."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    for (name, e), colour in zip(scored.items(), _COLOURS, strict=False):
        total = np.bincount(e.unit, e.columns["mrr"]) / np.maximum(1, np.bincount(e.unit, e.columns["n"]))
        axis.plot(total, "o-", ms=3, lw=0.9, label=name, color=colour)
    axis.set_xlabel("block of test interactions")
    axis.set_ylabel("mean reciprocal rank")
    axis.legend(fontsize=8, ncols=3)
    return figure


def activity(data: Events, split: Split) -> Figure:
    """Interactions and new pairs per stretch of time, with the ends of the parts."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axis = figure.subplots()
    keys = data.source.astype(np.int64) * data.nodes + data.target
    new = np.zeros(len(keys), bool)
    new[np.unique(keys, return_index=True)[1]] = True
    cuts = np.linspace(data.time[0], data.time[-1], 61)
    for chosen, label, colour in ((slice(None), "all", _COLOURS[0]), (new, "pairs never met before", _COLOURS[1])):
        count = np.histogram(data.time[chosen], cuts)[0]
        axis.step(cuts[:-1], count, where="post", label=label, color=colour)
    for part in ("val", "test"):
        axis.axvline(data.time[split.parts[part][0]], color="#222222", lw=0.8, ls=":")
        axis.text(data.time[split.parts[part][0]], axis.get_ylim()[1], f" {part}", fontsize=8, va="top")
    axis.set_xlabel("time")
    axis.set_ylabel("interactions")
    axis.legend(fontsize=8)
    return figure


def reliability(scored: Mapping[str, Evidence]) -> Figure:
    """Mean predicted probability against the share of state 1, in bins of probability."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#222222", lw=0.8, ls=":")
    for (name, e), colour in zip(scored.items(), _COLOURS, strict=False):
        share = 1 / (1 + np.exp(-e.columns["score"]))
        at = np.clip((share * 10).astype(int), 0, 9)
        there = np.bincount(at, minlength=10) > 0
        means = [
            np.bincount(at, w, 10)[there] / np.bincount(at, minlength=10)[there] for w in (share, e.columns["label"])
        ]
        axis.plot(*means, "o-", ms=4, lw=0.9, label=name, color=colour)
    axis.set_xlabel("predicted probability of state 1")
    axis.set_ylabel("share in state 1")
    axis.legend(fontsize=8)
    return figure
