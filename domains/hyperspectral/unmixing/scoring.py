"""Evidence of an unmixing, and the metrics that are read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ...task import Evidence, MetricFact
from .endmembers import matched, unit

NEGATIVE, OFF = 1e-6, 1e-3  # from where an abundance counts as negative, and a sum as not one
NAN = float("nan")

METRIC_FACTS: Mapping[str, MetricFact] = {
    "abundance_rmse": MetricFact("1", "lower", "root mean square error of abundances; endmembers paired by angle"),
    "endmember_angle": MetricFact("rad", "lower", "mean spectral angle of the paired endmembers"),
    "endmember_angle_worst": MetricFact("rad", "lower", "largest spectral angle of the paired endmembers"),
    "reconstruction_angle": MetricFact("rad", "lower", "mean angle between a spectrum and its reconstruction"),
    "sign_violations": MetricFact("1", "lower", "share of pixels with an abundance below -1e-6"),
    "sum_violations": MetricFact("1", "lower", "share of pixels whose abundances miss the sum 1 by more than 0.001"),
}


@dataclass
class Mixing:
    """Sums of one method by unit, filled piece by piece.

    found, true: endmembers (q, b) and (p, b); without a truth only what needs none is summed.
    """

    found: Float[np.ndarray, "q b"]
    true: Float[np.ndarray, "p b"] | None
    rows: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.order: Any = None
        self.angle: Any = np.full(1, np.nan)
        if self.true is not None:
            self.order, self.angle = matched(self.found, self.true)

    def add(
        self,
        unit_of: Int64[np.ndarray, "n"],
        a: Float[np.ndarray, "n q"],
        x: Float[np.ndarray, "n b"],
        truth: Float[np.ndarray, "n p"] | None,
    ) -> None:
        """Pixels with their unit, abundances, spectra and true abundances."""
        error = np.full(len(a), np.nan)
        if truth is not None and self.order is not None:
            error = ((a[:, self.order] - truth) ** 2).mean(1)
        made: Any = unit(a.astype(np.float64) @ self.found)
        turned = np.arccos(np.clip((made * unit(x.astype(np.float64))).sum(1), -1, 1))
        columns: tuple[Any, ...] = (np.ones(len(a)), error, turned, (a < -NEGATIVE).any(1), np.abs(a.sum(1) - 1) > OFF)
        for u in np.unique(unit_of).tolist():
            mine = unit_of == u
            self.rows[u] = self.rows.get(u, 0.0) + np.array([float(c[mine].sum()) for c in columns])

    def evidence(self) -> Evidence:
        """One row per unit: pixels, sums of squared error, of angles, of violations; the angles of the endmembers."""
        units = sorted(self.rows)
        table = np.stack([self.rows[u] for u in units])
        names = ("pixels", "error", "turned", "negative", "off")
        columns = {n: table[:, i] for i, n in enumerate(names)}
        columns["angle"] = np.tile(self.angle, (len(units), 1)) * table[:, :1]  # belongs to all pixels alike
        return Evidence(np.array(units, dtype=np.int64), columns)


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics of summed evidence; NaN for what needs a truth that is not known."""
    n = float(evidence.sum("pixels"))
    if n <= 0:
        return dict.fromkeys(METRIC_FACTS, NAN)
    angle = np.asarray(evidence.sum("angle")) / n
    return {
        "abundance_rmse": float(np.sqrt(evidence.sum("error") / n)),
        "endmember_angle": float(angle.mean()),
        "endmember_angle_worst": float(angle.max()),
        "reconstruction_angle": float(evidence.sum("turned") / n),
        "sign_violations": float(evidence.sum("negative") / n),
        "sum_violations": float(evidence.sum("off") / n),
    }
