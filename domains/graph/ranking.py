"""Ranks of a true link among negatives, and the metrics made of them. n queries, K candidates of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from ..task import Evidence, MetricFact

FACTS: Mapping[str, MetricFact] = {
    "mrr": MetricFact("1", "higher", "mean of 1 / rank of the true link among its negatives"),
    "hits_1": MetricFact("1", "higher", "share of true links that are ranked first"),
    "hits_10": MetricFact("1", "higher", "share of true links among the first ten"),
    "auc": MetricFact("1", "higher", "share of (link, negative) pairs in the right order, averaged over links"),
}


def ranks(
    true: Float[np.ndarray, "n"], others: Float[np.ndarray, "n K"], there: Bool[np.ndarray, "n K"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """(rank, share of negatives below) of each true link; equal scores count half, so a constant gains nothing."""
    above = ((others > true[:, None]) & there).sum(1) + 0.5 * ((others == true[:, None]) & there).sum(1)
    return 1.0 + above, 1.0 - above / np.maximum(1, there.sum(1))


def rank_columns(
    true: Float[np.ndarray, "n"], others: Float[np.ndarray, "n K"], there: Bool[np.ndarray, "n K"], suffix: str = ""
) -> dict[str, Float[np.ndarray, "n"]]:
    """Additive statistics per query; a query without any negative counts nowhere."""
    rank, below = ranks(true, others, there)
    counts = there.any(1).astype(np.float64)
    columns = {"n": counts, "mrr": counts / rank, "hits_1": counts * (rank <= 1), "hits_10": counts * (rank <= 10)}
    columns["auc"] = counts * below
    return {name + suffix: np.asarray(value, np.float64) for name, value in columns.items()}


def rank_evidence(
    unit: Int[np.ndarray, "n"],
    true: Float[np.ndarray, "n"],
    others: Float[np.ndarray, "n K"],
    there: Bool[np.ndarray, "n K"],
) -> Evidence:
    """One row per query."""
    return Evidence(unit.astype(np.int64), rank_columns(true, others, there))


def rank_scores(evidence: Evidence, suffix: str = "") -> dict[str, float]:
    """Metrics named as in FACTS; NaN where no query has a negative."""
    n = float(evidence.sum("n" + suffix))
    names = [name + suffix for name in FACTS]
    return {name: float(evidence.sum(name)) / n if n > 0 else float("nan") for name in names}
