"""How well hidden values are restored, by spatial unit; and what the features are good for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from ...task import Evidence, MetricFact
from ..scoring import scores as class_scores

FACTS: Mapping[str, MetricFact] = {
    "mse": MetricFact("1", "lower", "mean squared error of hidden values, in deviations of each band over training"),
    "explained": MetricFact("1", "higher", "share of their squared distance from the training mean that is explained"),
    "sam": MetricFact("rad", "lower", "mean angle between hidden and restored bands of a pixel, two bands at least"),
    "probe_oa": MetricFact("1", "higher", "overall accuracy of a linear map from features to classes, where labelled"),
    "probe_kappa": MetricFact("1", "higher", "Cohen's kappa of the same"),
}
Cube = Float[np.ndarray, "b *n"]


class Sums:
    """Additive statistics by spatial unit, filled window by window."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = np.array(mean), np.array(std)
        self._rows: dict[int, dict[str, Any]] = {}

    def add(self, unit: Int64[np.ndarray, "n"], made: Cube, truth: Cube, hidden: Bool[np.ndarray, "b n"]) -> None:
        """Pixels with their unit, restored and true values in deviations, and which of them were hidden."""
        off = np.where(hidden, made.astype(np.float64) - truth, 0.0)
        far = np.where(hidden, truth.astype(np.float64), 0.0)
        angle = self._angles(made, truth, hidden)
        for u in np.unique(unit):
            at = unit == u
            row = {
                "n": hidden[:, at].sum(1).astype(np.float64),
                "error": np.square(off[:, at]).sum(1),
                "total": np.square(far[:, at]).sum(1),
                "angle": float(np.nansum(angle[at])),
                "angles": float(np.isfinite(angle[at]).sum()),
            }
            known = self._rows.get(int(u))
            self._rows[int(u)] = row if known is None else {k: known[k] + v for k, v in row.items()}

    def _angles(self, made: Cube, truth: Cube, hidden: Bool[np.ndarray, "b n"]) -> Float[np.ndarray, "n"]:
        a, b = (np.where(hidden, v * self.std[:, None] + self.mean[:, None], 0.0) for v in (made, truth))
        length = np.sqrt((a**2).sum(0) * (b**2).sum(0))
        known = (hidden.sum(0) > 1) & (length > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(known, np.arccos(np.clip((a * b).sum(0) / length, -1, 1)), np.nan)

    def evidence(self) -> Evidence:
        """One row per unit: "n", "error" and "total" by band, "angle" (sum) and "angles" (pixels)."""
        units = sorted(self._rows)
        first = self._rows[units[0]]
        columns = {k: np.stack([np.asarray(self._rows[u][k], dtype=np.float64) for u in units]) for k in first}
        return Evidence(np.array(units, dtype=np.int64), columns)


def with_probe(evidence: Evidence, said: Evidence) -> Evidence:
    """The same units, with the confusion of the probe; units that it has no pixel in count nothing."""
    columns = dict(evidence.columns)
    place = {int(u): i for i, u in enumerate(said.unit)}
    for name in ("confusion", "bins", "bins_before", "class_ids"):
        rows = said.columns[name]
        blank = rows[0] if name == "class_ids" else np.zeros_like(rows[0])
        columns[name] = np.stack([rows[place[int(u)]] if int(u) in place else blank for u in evidence.unit])
    return Evidence(evidence.unit, columns)


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics; those of the probe are NaN without one."""
    n, error, total = (float(np.asarray(evidence.sum(name)).sum()) for name in ("n", "error", "total"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "mse": float(np.divide(error, n)),
            "explained": float(1 - np.divide(error, total)),
            "sam": float(np.divide(evidence.sum("angle"), evidence.sum("angles"))),
        }
    if "confusion" not in evidence.columns:
        return {**found, "probe_oa": np.nan, "probe_kappa": np.nan}
    said = class_scores(evidence)
    return {**found, "probe_oa": said["oa"], "probe_kappa": said["kappa"]}
