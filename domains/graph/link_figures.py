"""Pictures of link prediction: how high true links are ranked, and by the degree of their source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from ..task import Evidence

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")


def draw(scored: Mapping[str, Evidence], degree: Int[np.ndarray, "n"]) -> dict[str, Figure]:
    """Title -> figure."""
    return {"Rank of true links": rank_curves(scored), "Reciprocal rank by degree": by_degree(scored, degree)}


def rank_curves(scored: Mapping[str, Evidence]) -> Figure:
    """Share of true links among the first k."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for (name, evidence), colour in zip(scored.items(), _COLOURS, strict=False):
        known = evidence.columns["n"] > 0
        rank = np.sort(1 / evidence.columns["mrr"][known])
        axis.step(rank, np.arange(1, len(rank) + 1) / max(1, len(rank)), where="post", label=name, color=colour)
    axis.set_xscale("log")
    axis.set_xlabel("rank k among the negatives")
    axis.set_ylabel("share of true links within rank k")
    axis.legend(fontsize=8)
    return figure


def by_degree(scored: Mapping[str, Evidence], degree: Int[np.ndarray, "n"]) -> Figure:
    """Mean reciprocal rank over links whose source has so many training edges."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    cuts = [0, 1, 2, 4, 8, 16, 32, 64, 10**9]
    bins = np.digitize(degree, cuts) - 1
    there = np.unique(bins)
    for (name, evidence), colour in zip(scored.items(), _COLOURS, strict=False):
        means = [evidence.columns["mrr"][bins == b].mean() for b in there]
        axis.plot(range(len(there)), means, "o-", ms=4, label=name, color=colour)
    labels = [f"{cuts[b]}" if cuts[b + 1] - cuts[b] == 1 else f"{cuts[b]}+" for b in there]
    counts = [int((bins == b).sum()) for b in there]
    axis.set_xticks(range(len(there)), [f"{label}\n({n})" for label, n in zip(labels, counts, strict=True)])
    axis.set_xlabel("training edges of the source (test links)")
    axis.set_ylabel("mean reciprocal rank")
    axis.legend(fontsize=8)
    return figure
