"""Evidence of a class map, and the metrics that are read from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..task import Evidence, MetricFact

BINS = 15  # of equal width in confidence


METRIC_FACTS: Mapping[str, MetricFact] = {
    "oa": MetricFact("1", "higher", "overall accuracy: share of test pixels that are right"),
    "aa": MetricFact("1", "higher", "average accuracy: mean over classes of the share that is right"),
    "kappa": MetricFact("1", "higher", "Cohen's kappa: agreement beyond chance"),
    "f1_macro": MetricFact("1", "higher", "mean F1 over classes"),
    "ece": MetricFact("1", "lower", "expected calibration error, after the temperature was fitted on validation"),
    "ece_before": MetricFact("1", "lower", "expected calibration error before that"),
    "f1_<class>": MetricFact("1", "higher", "F1 of one class, by its id"),
}


def calibration_bins(confidence: Float[np.ndarray, "n"], right: Any) -> Float[np.ndarray, "bins 3"]:
    """Per bin of confidence: cases, sum of confidence, cases that are right."""
    at = np.clip((np.nan_to_num(confidence) * BINS).astype(int), 0, BINS - 1)
    return np.stack([np.bincount(at, w, BINS) for w in (np.ones(len(at)), confidence, right.astype(np.float64))], 1)


class Tally:
    """Confusion counts and calibration bins by spatial unit, filled piece by piece."""

    def __init__(self, class_ids: tuple[int, ...]) -> None:
        self.class_ids = class_ids
        self._rows: dict[int, tuple[Any, Any, Any]] = {}

    def add(
        self,
        unit: Int64[np.ndarray, "n"],
        truth: Int64[np.ndarray, "n"],
        guess: Int64[np.ndarray, "n"],
        confidence: Float[np.ndarray, "n"] | None = None,
        before: Float[np.ndarray, "n"] | None = None,
    ) -> None:
        """Pixels with their unit, true and predicted class positions, confidence after and before calibration."""
        k = len(self.class_ids)
        for u in np.unique(unit):
            mine = unit == u
            if int(u) not in self._rows:
                self._rows[int(u)] = (np.zeros((k, k)), np.zeros((BINS, 3)), np.zeros((BINS, 3)))
            confusion, after, plain = self._rows[int(u)]
            confusion += np.bincount(truth[mine] * k + guess[mine], minlength=k * k).reshape(k, k)
            right = truth[mine] == guess[mine]
            for bins, values in ((after, confidence), (plain, before)):
                bins += np.nan if values is None else calibration_bins(values[mine].astype(np.float64), right)

    def evidence(self) -> Evidence:
        """One row per unit: "confusion" (K, K; truth by guess), "bins" and "bins_before" (bins, 3), "class_ids"."""
        units = sorted(self._rows)
        confusion, after, before = (np.stack([self._rows[u][i] for u in units]) for i in range(3))
        ids = np.tile(np.array(self.class_ids, dtype=np.float64), (len(units), 1))
        columns = {"confusion": confusion, "bins": after, "bins_before": before, "class_ids": ids}
        return Evidence(np.array(units, dtype=np.int64), columns)


def expected_calibration_error(bins: Float[np.ndarray, "bins 3"]) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by their cases; NaN without confidences."""
    total = bins[:, 0].sum()
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / total) if total > 0 else float("nan")


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics of a confusion matrix summed over units. Classes without a test pixel do not enter averages."""
    confusion = np.asarray(evidence.sum("confusion"))
    ids = evidence.columns["class_ids"][0].astype(int)
    total, right = confusion.sum(), np.diag(confusion)
    of_truth, of_guess = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / of_truth
        f1 = 2 * right / (of_truth + of_guess)
        chance = (of_truth * of_guess).sum() / total**2
        oa = right.sum() / total
        kappa = (oa - chance) / (1 - chance)
    present = of_truth > 0
    found = {
        "oa": oa,
        "aa": recall[present].mean() if present.any() else np.nan,
        "kappa": kappa,
        "f1_macro": f1[present].mean() if present.any() else np.nan,
        "ece": expected_calibration_error(np.asarray(evidence.sum("bins"))),
        "ece_before": expected_calibration_error(np.asarray(evidence.sum("bins_before"))),
        **{f"f1_{i}": (f if there else np.nan) for i, f, there in zip(ids, f1, present, strict=True)},
    }
    return {name: float(value) for name, value in found.items()}


def softmax(logits: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    """Row-wise, in float64."""
    z = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)
