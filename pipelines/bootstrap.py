"""Intervals by resampling independent units (windows, blocks, patients), the same resamples for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from domains.task import Evidence

Metrics = Callable[[Evidence], Mapping[str, float]]
Array = np.ndarray
_BLOCK = 8_000_000  # numbers of the matrix of weights that are held at once


@dataclass(frozen=True)
class Resampled:
    """Every metric of one method: its value, and its value in every resample."""

    value: dict[str, float]
    draws: dict[str, Float[Array, "draws"]]

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval; NaN where the metric is undefined in more than half of the resamples."""
        return percentile(self.draws[name], level)


def percentile(draws: Float[Array, "draws"], level: float) -> tuple[float, float]:
    """The middle ``level`` of the defined draws; (NaN, NaN) where fewer than half are defined."""
    kept = draws[np.isfinite(draws)]
    if len(kept) == 0 or 2 * len(kept) < len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def unit_weights(units: int, draws: int, seed: int) -> Iterator[Float[Array, "block units"]]:
    """How often each unit is drawn in each resample, in blocks of resamples: rows sum to ``units``."""
    rng = np.random.default_rng([seed, 0xB007])
    block = max(1, min(draws, _BLOCK // max(1, units)))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        yield rng.multinomial(units, np.full(units, 1 / units), size=size).astype(np.float64)


def _rows(evidence: Evidence) -> Float[Array, "rows"]:
    return np.ones(len(evidence.unit)) if evidence.weight is None else np.asarray(evidence.weight, dtype=np.float64)


def per_unit(evidence: Evidence) -> dict[str, Float[Array, "units ..."]]:
    """Every column summed over the rows of each unit, in the order of ``evidence.units``."""
    order = np.argsort(evidence.unit, kind="stable")
    _, starts = np.unique(evidence.unit[order], return_index=True)
    sums = {}
    for name, column in evidence.columns.items():
        rows = np.asarray(column, dtype=np.float64)
        if evidence.weight is not None:
            rows = rows * np.reshape(evidence.weight, (-1, *[1] * (rows.ndim - 1)))
        sums[name] = np.add.reduceat(rows[order], starts, axis=0)
    return sums


def _one_row(sums: Mapping[str, Float[Array, "..."]]) -> Evidence:
    return Evidence(unit=np.zeros(1, dtype=np.int64), columns={name: total[None] for name, total in sums.items()})


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(np.isclose(a[k], b[k], rtol=1e-9, atol=1e-12, equal_nan=True) for k in a)


def additive(metrics: Metrics, evidence: Evidence, sums: Mapping[str, Any], seed: int) -> bool:
    """Whether the metrics need no more than the sums of the columns, found by trying three weightings.

    Then a resample is one row, and 1000 of them are one matrix product.
    """
    units, inverse = np.unique(evidence.unit, return_inverse=True)
    rng = np.random.default_rng([seed, 0xADD])
    trials = [np.ones(len(units)), *rng.integers(0, 3, (2, len(units))).astype(np.float64)]
    try:
        return all(
            _same(
                metrics(replace(evidence, weight=_rows(evidence) * weight[inverse])),
                metrics(_one_row({name: np.tensordot(weight, total, axes=1) for name, total in sums.items()})),
            )
            for weight in trials
        )
    except (ValueError, IndexError):  # raw cases, summed, need not be cases at all
        return False


def resample(metrics: Metrics, evidence: Evidence, draws: int = 1000, seed: int = 0) -> Resampled:
    """Every metric in ``draws`` resamples of the units with replacement.

    Two calls with the same seed and the same units draw the same units, so differences between them are paired.
    """
    with np.errstate(all="ignore"):
        value = {name: float(v) for name, v in metrics(evidence).items()}
        units, inverse = np.unique(evidence.unit, return_inverse=True)
        sums = per_unit(evidence)
        summed = additive(metrics, evidence, sums, seed)
        found: dict[str, list[float]] = {name: [] for name in value}
        for weights in unit_weights(len(units), draws, seed):
            totals = {name: np.tensordot(weights, total, axes=1) for name, total in sums.items()} if summed else {}
            for i, weight in enumerate(weights):
                if summed:
                    drawn = _one_row({name: total[i] for name, total in totals.items()})
                else:
                    drawn = replace(evidence, weight=_rows(evidence) * weight[inverse])
                for name, v in metrics(drawn).items():
                    found[name].append(float(v))
    return Resampled(value, {name: np.array(v) for name, v in found.items()})


def paired(a: Resampled, b: Resampled, name: str, level: float = 0.95) -> dict[str, float]:
    """a - b in one metric on the same resamples: value, low, high."""
    low, high = percentile(a.draws[name] - b.draws[name], level)
    return {"value": a.value[name] - b.value[name], "low": low, "high": high}
