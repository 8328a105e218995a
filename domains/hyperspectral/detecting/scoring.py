"""Evidence of a detection, and the metrics that are read from it: rankings cannot be summed, so cases are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ...task import Evidence, MetricFact

FALSE_ALARMS = 0.01

METRIC_FACTS: Mapping[str, MetricFact] = {
    "auc": MetricFact("1", "higher", "area under the receiver's curve"),
    "found": MetricFact("1", "higher", f"share of targets found where {FALSE_ALARMS:g} of background passes"),
    "average_precision": MetricFact("1", "higher", "precision averaged over targets, from the highest score down"),
}


def cases(unit: Any, score: Any, label: Any) -> Evidence:
    """One row per pixel."""
    columns = {"score": np.asarray(score, dtype=np.float64), "label": np.asarray(label, dtype=np.float64)}
    return Evidence(np.asarray(unit, dtype=np.int64), columns)


def ranked(evidence: Evidence) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """Weight of background and of targets at or above every distinct score, from the highest down."""
    score, label = evidence.columns["score"], evidence.columns["label"] > 0
    weight = np.ones(len(score)) if evidence.weight is None else evidence.weight
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return np.cumsum((weight * ~label)[order])[last], np.cumsum((weight * label)[order])[last]


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics over cases; NaN where targets or background are missing."""
    false, true = ranked(evidence)
    if not len(true) or true[-1] <= 0 or false[-1] <= 0:
        return dict.fromkeys(METRIC_FACTS, float("nan"))
    x, y = np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])
    precision = true / np.maximum(true + false, 1e-12)
    return {
        "auc": float(np.trapezoid(y, x)),
        "found": float(np.interp(FALSE_ALARMS, x, y)),
        "average_precision": float((np.diff(y) * precision).sum()),
    }
