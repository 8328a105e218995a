"""Evidence of segmented cases, one row per case, and the metrics read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..task import Evidence, MetricFact
from .surfaces import agreement, boundary_agreement

MEASURES = ("dice", "iou", "hd95", "assd", "nsd")
SEGMENT_FACTS: Mapping[str, MetricFact] = {
    "dice": MetricFact("1", "higher", "mean over structures of the mean over cases; missed and made-up ones are 0"),
    "iou": MetricFact("1", "higher", "intersection over union, averaged likewise"),
    "nsd": MetricFact("1", "higher", "share of both surfaces within the tolerance of each other"),
    "hd95": MetricFact("mm or px", "lower", "95th percentile of the surface distance; a miss is the image's diagonal"),
    "assd": MetricFact("mm or px", "lower", "mean distance of the surfaces; a miss is the image's diagonal"),
    "missed": MetricFact("1", "lower", "share of the structures that are there of which nothing was found"),
    "made_up": MetricFact("1", "lower", "share of the structures that are not there of which something was found"),
    "v_rand": MetricFact("1", "higher", "F-score of the Rand index of the cells that the boundary parts"),
    "dice_*": MetricFact("1", "higher", "of the structure with that label value"),
    "nsd_*": MetricFact("1", "higher", "of the structure with that label value"),
}


class SegmentTally:
    """Rows of evidence, case by case."""

    def __init__(self, values: Sequence[int], boundary: int | None, tolerance: float) -> None:
        self.values, self.boundary, self.tolerance = tuple(values), boundary, tolerance
        self.rows: dict[str, list[Any]] = {n: [] for n in (*MEASURES, "state", "value", "v_rand", "case", "unit")}

    def add(
        self,
        case: int,
        unit: int,
        truth: Int[np.ndarray, "*axes"],
        guess: Int[np.ndarray, "*axes"],
        spacing: Sequence[float],
    ) -> None:
        """One case: positions in the structures, background 0; truth below 0 counts nowhere."""
        counts = truth >= 0
        guess = np.where(counts, guess, -1)
        found = [agreement(truth == k, guess == k, spacing, self.tolerance) for k in range(1, len(self.values))]
        for name in MEASURES:
            self.rows[name].append([getattr(f, name) for f in found])
        order = ("absent", "false", "missed", "found")
        self.rows["state"].append([order.index(f.state) for f in found])
        self.rows["value"].append(self.values[1:])
        flat = self.boundary is not None and truth.ndim == 2
        self.rows["v_rand"].append(
            boundary_agreement(truth == self.boundary, guess == self.boundary) if flat else float("nan")
        )
        self.rows["case"].append(case)
        self.rows["unit"].append(unit)

    def evidence(self) -> Evidence:
        columns = {k: np.array(v, dtype=np.float64) for k, v in self.rows.items() if k != "unit"}
        return Evidence(np.array(self.rows["unit"], dtype=np.int64), columns)


def _mean(values: Any, weight: Any) -> Any:
    """Weighted mean over the rows where there is a value, column by column; NaN where there is none."""
    there = np.isfinite(values)
    w = weight.reshape(-1, *[1] * (values.ndim - 1)) * there
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.where(there, values, 0.0) * w).sum(0) / w.sum(0)


def _overall(values: Any) -> float:
    """Mean over the structures that any case of the part speaks for."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def segment_scores(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in SEGMENT_FACTS; NaN where one is undefined."""
    c = evidence.columns
    weight = np.ones(len(evidence.unit)) if evidence.weight is None else evidence.weight
    per = {name: _mean(c[name], weight) for name in MEASURES}
    state = c["state"]
    w = weight[:, None]
    there, absent = float((w * (state >= 2)).sum()), float((w * (state < 2)).sum())
    scores = {name: _overall(per[name]) for name in ("dice", "iou", "nsd", "hd95", "assd")}
    scores["missed"] = float((w * (state == 2)).sum()) / there if there else float("nan")
    scores["made_up"] = float((w * (state == 1)).sum()) / absent if absent else float("nan")
    scores["v_rand"] = float(_mean(c["v_rand"], weight))
    if c["value"].shape[1] > 1:
        for i, value in enumerate(c["value"][0]):
            scores[f"dice_{value:g}"] = float(per["dice"][i])
            scores[f"nsd_{value:g}"] = float(per["nsd"][i])
    return scores


def state_counts(evidence: Evidence) -> dict[str, int]:
    """How many (case, structure) pairs are absent from both, made up, missed, found."""
    state = evidence.columns["state"]
    return {name: int((state == i).sum()) for i, name in enumerate(("absent", "made up", "missed", "found"))}
