"""Evidence of labels, some of them not known, and the metrics read from it.

A column "label NAME" holds per case: truth (1, 0, NaN not known), probability, probability before calibration, and the
threshold at which the label is called (NaN where the method has none). Labels without both outcomes are left out of
means over labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..scoring import BINS, MOST_UNITS, auroc
from ..task import Evidence, MetricFact

PREFIX = "label "
FACTS: Mapping[str, MetricFact] = {
    "auroc": MetricFact("1", "higher", "area under the ROC curve, mean over the labels that have both outcomes"),
    "accuracy": MetricFact("1", "higher", "share that is right: of cases, or of known labels at 0.5"),
    "balanced_accuracy": MetricFact("1", "higher", "mean over exclusive classes of the share that is right"),
    "f1_macro": MetricFact("1", "higher", "mean F1 over the labels that the part holds"),
    "auprc": MetricFact("1", "higher", "average precision, mean over the labels that have both outcomes"),
    "sensitivity_at_specificity": MetricFact("1", "higher", "highest at the specificity asked for, read off the part"),
    "sensitivity": MetricFact("1", "higher", "at the threshold that validation set for that specificity"),
    "specificity": MetricFact("1", "none", "at that threshold"),
    "brier": MetricFact("1", "lower", "mean squared error of the probabilities"),
    "brier_before": MetricFact("1", "lower", "the same before calibration on validation"),
    "nll": MetricFact("nats", "lower", "mean negative log-likelihood"),
    "nll_before": MetricFact("nats", "lower", "the same before calibration"),
    "ece": MetricFact("1", "lower", "expected calibration error, 15 bins"),
    "ece_before": MetricFact("1", "lower", "the same before calibration"),
    "labels_scored": MetricFact("1", "none", "labels with both outcomes, which the means are over"),
    "auroc_*": MetricFact("1", "higher", "area under the ROC curve of one label; NaN where the part lacks an outcome"),
    "auprc_*": MetricFact("1", "higher", "average precision of one label; NaN where the part lacks an outcome"),
}  # fmt: skip
Column = Float[np.ndarray, "n"]
Curve = Float[np.ndarray, "points"]


def label_evidence(
    unit: Int[np.ndarray, "n"],
    case: Int[np.ndarray, "n"],
    names: Sequence[str],
    exclusive: bool,
    target: Float[np.ndarray, "n L"],
    probability: Float[np.ndarray, "n L"],
    before: Float[np.ndarray, "n L"] | None = None,
    threshold: Float[np.ndarray, "L"] | None = None,
) -> Evidence:
    """One row per case; ``unit``: the patient or set of copies that it belongs to."""
    n = len(target)
    before = probability if before is None else before
    threshold = np.full(len(names), np.nan) if threshold is None else threshold
    columns: dict[str, Any] = {"case": case.astype(np.float64), "exclusive": np.full(n, float(exclusive))}
    for i, name in enumerate(names):
        called = np.full(n, float(threshold[i]))
        columns[PREFIX + name] = np.stack([target[:, i], probability[:, i], before[:, i], called], 1).astype(np.float64)
    unit = unit.astype(np.int64)
    return Evidence(unit if len(np.unique(unit)) <= MOST_UNITS else unit % MOST_UNITS, columns)


def names_of(evidence: Evidence) -> list[str]:
    return [name.removeprefix(PREFIX) for name in evidence.columns if name.startswith(PREFIX)]


def table_of(evidence: Evidence) -> Float[np.ndarray, "L n 4"]:
    """(label, case, truth / probability / before / threshold)."""
    return np.stack([evidence.columns[PREFIX + name] for name in names_of(evidence)])


def weights_of(evidence: Evidence) -> Column:
    return np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight


def average_precision(score: Column, positive: Any, weight: Column) -> float:
    """Sum over thresholds of precision times the recall gained there; ties are one threshold. NaN without positives."""
    values, place = np.unique(-score, return_inverse=True)
    up = np.cumsum(np.bincount(place, weight * positive, len(values)))
    down = np.cumsum(np.bincount(place, weight * ~positive, len(values)))
    if not len(up) or up[-1] <= 0:
        return float("nan")
    gain = np.diff(up, prepend=0.0) / up[-1]
    return float((gain * up / np.maximum(up + down, 1e-300)).sum())


def roc(score: Column, positive: Any, weight: Column) -> tuple[Curve, Curve, Curve]:
    """False and true positive rates and the threshold (score >= threshold), from (0, 0, inf) to (1, 1, lowest)."""
    values, place = np.unique(-score, return_inverse=True)
    up = np.cumsum(np.bincount(place, weight * positive, len(values)))
    down = np.cumsum(np.bincount(place, weight * ~positive, len(values)))
    start = np.zeros(1)
    rates = [np.concatenate([start, x / max(float(x[-1]), 1e-300)]) for x in (down, up)]
    return rates[0], rates[1], np.concatenate([[np.inf], -values])


def sensitivity_at(score: Column, positive: Any, weight: Column, specificity: float) -> tuple[float, float]:
    """(sensitivity, threshold): the highest at which so large a share of the negatives lies below the threshold."""
    false, true, at = roc(score, positive, weight)
    allowed = false <= 1 - specificity + 1e-12
    best = int(np.flatnonzero(allowed)[-1])
    return float(true[best]), float(at[best])


def operating_points(
    probability: Float[np.ndarray, "n L"], target: Float[np.ndarray, "n L"], specificity: float
) -> Float[np.ndarray, "L"]:
    """Thresholds of validation cases at the specificity asked for; 0.5 where a label lacks an outcome there.

    Halfway to the next lower score, so that a case like the last one called is called too.
    """
    found = np.full(target.shape[1], 0.5)
    for i in range(target.shape[1]):
        known = ~np.isnan(target[:, i])
        score, positive = probability[known, i].astype(np.float64), target[known, i] == 1
        if positive.all() or not positive.any():
            continue
        at = sensitivity_at(score, positive, np.ones(len(score)), specificity)[1]
        lower = score[score < at]
        top = min(at, 1.0)
        found[i] = 0.5 * (top + (lower.max() if len(lower) else 0.0))
    return found


def calibration_gap(confidence: Column, right: Column, weight: Column) -> float:
    """Expected calibration error over ``BINS`` bins of equal width."""
    at = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    return float(np.abs(np.bincount(at, weight * (confidence - right), BINS)).sum() / weight.sum())


def label_scores(evidence: Evidence, specificity: float) -> dict[str, float]:
    """Metrics named as in FACTS; NaN where one is undefined."""
    table, weight, names = table_of(evidence), weights_of(evidence), names_of(evidence)
    exclusive = bool(evidence.columns["exclusive"][0])
    each: dict[str, list[float]] = {k: [] for k in ("auroc", "auprc", "at", "sensitivity", "specificity")}
    for rows in table:
        for key, value in _one_label(rows, weight, specificity).items():
            each[key].append(value)
    if exclusive and len(names) == 2:  # one question asked twice: the second class is the positive one
        each = {k: [float("nan"), v[1]] for k, v in each.items()}
    found = {
        "auroc": _mean(each["auroc"]),
        "auprc": _mean(each["auprc"]),
        "sensitivity_at_specificity": _mean(each["at"]),
        "sensitivity": _mean(each["sensitivity"]),
        "specificity": _mean(each["specificity"]),
        "labels_scored": float(np.isfinite(each["auroc"]).sum()),
        **(_exclusive_scores if exclusive else _several_scores)(table, weight),
    }
    for i, name in enumerate(names):
        if np.isfinite(each["auroc"][i]) or not exclusive:
            found[f"auroc_{name}"], found[f"auprc_{name}"] = each["auroc"][i], each["auprc"][i]
    return {k: found[k] for k in (*(f for f in FACTS if "*" not in f), *(k for k in found if k not in FACTS))}


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _one_label(rows: Float[np.ndarray, "n 4"], weight: Column, specificity: float) -> dict[str, float]:
    known = ~np.isnan(rows[:, 0]) & (weight > 0)
    truth, score, called = rows[known, 0] == 1, rows[known, 1], rows[known, 1] >= rows[known, 3]
    w = weight[known]
    ups, downs = float((w * truth).sum()), float((w * ~truth).sum())
    if ups <= 0 or downs <= 0:
        return dict.fromkeys(("auroc", "auprc", "at", "sensitivity", "specificity"), float("nan"))
    set_ = not np.isnan(rows[0, 3])
    return {
        "auroc": auroc(score, truth, w),
        "auprc": average_precision(score, truth, w),
        "at": sensitivity_at(score, truth, w, specificity)[0],
        "sensitivity": float((w * (truth & called)).sum() / ups) if set_ else float("nan"),
        "specificity": float((w * (~truth & ~called)).sum() / downs) if set_ else float("nan"),
    }


def _exclusive_scores(table: Float[np.ndarray, "L n 4"], weight: Column) -> dict[str, float]:
    truth, p, before = table[:, :, 0].argmax(0), table[:, :, 1].T, table[:, :, 2].T
    guess, k, total = p.argmax(1), len(table), weight.sum()
    counts = np.bincount(truth * k + guess, weight, k * k).reshape(k, k)
    of_truth, of_guess, hits = counts.sum(1), counts.sum(0), np.diag(counts)
    there = of_truth > 0
    right, rows, one = (truth == guess).astype(float), np.arange(len(truth)), np.eye(k)[truth]

    def spread(q: Float[np.ndarray, "n L"]) -> tuple[float, float, float]:
        nll = -np.log(np.clip(q[rows, truth], 1e-12, None))
        squared = ((q - one) ** 2).sum(1)
        confidence = q.max(1)
        return (
            float((weight * squared).sum() / total),
            float((weight * nll).sum() / total),
            calibration_gap(confidence, right if q is p else (q.argmax(1) == truth).astype(float), weight),
        )

    return {
        "accuracy": float(hits.sum() / total),
        "balanced_accuracy": float((hits[there] / of_truth[there]).mean()),
        "f1_macro": float((2 * hits[there] / (of_truth + of_guess)[there]).mean()),
        **_named(spread(p), spread(before)),
    }


def _several_scores(table: Float[np.ndarray, "L n 4"], weight: Column) -> dict[str, float]:
    truth = table[:, :, 0]
    known = ~np.isnan(truth)
    w = np.broadcast_to(weight, truth.shape)[known]
    y, p, before = truth[known], table[:, :, 1][known], table[:, :, 2][known]
    f1 = []
    for label, seen in zip(table, known, strict=True):
        t, g, v = label[seen, 0] == 1, label[seen, 1] >= 0.5, weight[seen]
        if (v * t).sum() > 0:
            f1.append(float(2 * (v * (t & g)).sum() / ((v * t).sum() + (v * g).sum())))

    def spread(q: Column) -> tuple[float, float, float]:
        nll = -np.log(np.clip(np.where(y == 1, q, 1 - q), 1e-12, None))
        return (
            float((w * (q - y) ** 2).sum() / w.sum()),
            float((w * nll).sum() / w.sum()),
            calibration_gap(q, y, w),
        )

    return {
        "accuracy": float((w * ((p >= 0.5) == (y == 1))).sum() / w.sum()),
        "balanced_accuracy": float("nan"),
        "f1_macro": _mean(f1),
        **_named(spread(p), spread(before)),
    }


def _named(after: tuple[float, float, float], before: tuple[float, float, float]) -> dict[str, float]:
    names = ("brier", "nll", "ece")
    return {**dict(zip(names, after, strict=True)), **{f"{n}_before": v for n, v in zip(names, before, strict=True)}}


Scorer = Callable[[Evidence], dict[str, float]]
