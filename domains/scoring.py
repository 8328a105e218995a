"""Evidence of classes and values, one row per case, and the metrics read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .task import Evidence, MetricFact

BINS = 15  # of equal width in confidence
MOST_UNITS = 5000  # more cases than that share units, so that a bootstrap stays quick

CLASS_FACTS: Mapping[str, MetricFact] = {
    "accuracy": MetricFact("1", "higher", "share of cases that are right"),
    "balanced_accuracy": MetricFact("1", "higher", "mean over classes of the share that is right"),
    "f1_macro": MetricFact("1", "higher", "mean F1 over the classes that the part holds"),
    "nll": MetricFact("nats", "lower", "mean negative log-likelihood of the true class"),
    "auroc": MetricFact("1", "higher", "area under the ROC curve; two classes only"),
    "ece": MetricFact("1", "lower", "expected calibration error, after the temperature was fitted on validation"),
    "ece_before": MetricFact("1", "lower", "expected calibration error before that"),
}
VALUE_FACTS: Mapping[str, MetricFact] = {
    "mae": MetricFact("target unit", "lower", "mean absolute error"),
    "rmse": MetricFact("target unit", "lower", "root mean squared error"),
    "r2": MetricFact("1", "higher", "share of the variance explained"),
}


def softmax(logits: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    """Row-wise, in float64."""
    z = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def _units(case: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    return case.astype(np.int64) if len(case) <= MOST_UNITS else np.arange(len(case)) % MOST_UNITS


def class_evidence(
    case: Int[np.ndarray, "n"],
    truth: Int[np.ndarray, "n"],
    probability: Float[np.ndarray, "n K"],
    before: Float[np.ndarray, "n K"] | None = None,
) -> Evidence:
    """One row per case. ``before``: probabilities before calibration, where there was one."""
    guess = probability.argmax(1)
    rows = np.arange(len(truth))
    before = probability if before is None else before
    columns = {
        "truth": truth.astype(np.float64),
        "guess": guess.astype(np.float64),
        "classes": np.full(len(truth), float(probability.shape[1])),
        "confidence": probability.max(1).astype(np.float64),
        "before": before.max(1).astype(np.float64),
        "nll": -np.log(np.clip(probability[rows, truth], 1e-12, None)).astype(np.float64),
        "score": probability[:, -1].astype(np.float64),
        "case": case.astype(np.float64),
    }
    return Evidence(_units(case), columns)


def value_evidence(
    case: Int[np.ndarray, "n"], truth: Float[np.ndarray, "n"], guess: Float[np.ndarray, "n"]
) -> Evidence:
    """One row per case."""
    columns = {"truth": truth.astype(np.float64), "value": guess.astype(np.float64), "case": case.astype(np.float64)}
    return Evidence(_units(case), columns)


def _ece(confidence: Any, right: Any, weight: Any) -> float:
    at = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gap = np.bincount(at, weight * (confidence - right), BINS)
    return float(np.abs(gap).sum() / weight.sum())


def auroc(score: Any, positive: Any, weight: Any) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    values, place = np.unique(score, return_inverse=True)
    up = np.bincount(place, weight * positive, len(values))
    down = np.bincount(place, weight * ~positive, len(values))
    if up.sum() == 0 or down.sum() == 0:
        return float("nan")
    below = np.cumsum(down) - down
    return float((up * (below + 0.5 * down)).sum() / (up.sum() * down.sum()))


def confusion(evidence: Evidence) -> Float[np.ndarray, "K K"]:
    """Weighted counts, truth by guess."""
    c, k = evidence.columns, int(evidence.columns["classes"][0])
    weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
    flat = (c["truth"] * k + c["guess"]).astype(int)
    return np.bincount(flat, weight, k * k).reshape(k, k)


def class_scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in CLASS_FACTS; NaN where one is undefined."""
    c, table = evidence.columns, confusion(evidence)
    weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
    right = (c["truth"] == c["guess"]).astype(float)
    of_truth, of_guess, hits = table.sum(1), table.sum(0), np.diag(table)
    there = of_truth > 0
    total = weight.sum()
    return {
        "accuracy": float(hits.sum() / total),
        "balanced_accuracy": float((hits[there] / of_truth[there]).mean()),
        "f1_macro": float((2 * hits[there] / (of_truth + of_guess)[there]).mean()),
        "nll": float((weight * c["nll"]).sum() / total),
        "auroc": auroc(c["score"], c["truth"] == 1, weight) if len(table) == 2 else float("nan"),
        "ece": _ece(c["confidence"], right, weight),
        "ece_before": _ece(c["before"], right, weight),
    }


def value_scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in VALUE_FACTS."""
    c = evidence.columns
    weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
    error, total = c["value"] - c["truth"], weight.sum()
    mean = (weight * c["truth"]).sum() / total
    spread = (weight * (c["truth"] - mean) ** 2).sum()
    squared = (weight * error**2).sum()
    return {
        "mae": float((weight * np.abs(error)).sum() / total),
        "rmse": float(np.sqrt(squared / total)),
        "r2": float(1 - squared / spread) if spread > 0 else float("nan"),
    }
