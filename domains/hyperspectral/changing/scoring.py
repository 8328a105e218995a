"""Evidence of a change map, and the metrics that are read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ...task import Evidence, MetricFact
from ..detecting.scoring import ranked

METRIC_FACTS: Mapping[str, MetricFact] = {
    "f1": MetricFact("1", "higher", "F1 of change, at the threshold with the best F1 on validation"),
    "average_precision": MetricFact("1", "higher", "area under precision against recall, whatever the threshold"),
    "kappa": MetricFact("1", "higher", "Cohen's kappa: agreement beyond chance"),
    "precision": MetricFact("1", "higher", "share of what is called change that is"),
    "recall": MetricFact("1", "higher", "share of change that is found"),
    "area_error": MetricFact("1", "lower", "how far the area called changed is from the true one, as a share of it"),
    "oa": MetricFact("1", "higher", "overall accuracy; high where little changes, whatever is said"),
}


def cases(unit: Any, score: Any, label: Any, threshold: float) -> Evidence:
    """One row per pixel: its score, whether it changed, whether it is called changed."""
    score = np.asarray(score, dtype=np.float64)
    columns = {
        "score": score,
        "label": np.asarray(label, dtype=np.float64),
        "guess": (score > threshold).astype(np.float64),
    }
    return Evidence(np.asarray(unit, dtype=np.int64), columns)


def best_threshold(score: Float[np.ndarray, "n"], label: Any) -> float:
    """The threshold above which "change" has the best F1, halfway between two scores; infinite without any change."""
    label = np.asarray(label) > 0
    if not label.any():
        return float("inf")
    order = np.argsort(-score, kind="stable")
    values, right = score[order], np.cumsum(label[order])
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    f1 = 2 * right[last] / (last + 1 + label.sum())
    at = int(last[int(f1.argmax())])
    if at + 1 == len(values):
        return float(values[at] - 1e-9 * max(1.0, abs(values[at])))
    return float((values[at] + values[at + 1]) / 2)


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics over cases; NaN where they are undefined (no pixel changed)."""
    weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
    label, guess = (evidence.columns[k] > 0 for k in ("label", "guess"))
    tp, fp, fn, tn = (float(weight[a & b].sum()) for a, b in
                      ((label, guess), (~label, guess), (label, ~guess), (~label, ~guess)))  # fmt: skip
    total = tp + fp + fn + tn
    false, true = ranked(evidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        oa = np.float64(tp + tn) / total
        chance = (np.float64(tp + fp) * (tp + fn) + np.float64(fn + tn) * (fp + tn)) / total**2
        steps = np.diff(np.append(0.0, true)) / np.float64(true[-1])
        found = {
            "f1": np.float64(2 * tp) / (2 * tp + fp + fn) if tp + fn else np.nan,
            "average_precision": (steps * (true / np.maximum(true + false, 1e-12))).sum(),
            "kappa": (oa - chance) / (1 - chance),
            "precision": np.float64(tp) / (tp + fp),
            "recall": np.float64(tp) / (tp + fn),
            "area_error": abs(np.float64(fp) - fn) / (tp + fn),
            "oa": oa,
        }
    return {name: float(value) for name, value in found.items()}
