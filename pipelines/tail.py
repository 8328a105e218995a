"""The worst cases of two models: a mean can rise while those whom a model serves worst are served worse still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from domains.task import Evidence

from .bootstrap import unit_weights
from .evaluate import distance

MOST = 500  # units looked at; of more, as many are drawn
LEAST = 20  # units below which there is no tail to speak of


def errors_by_unit(task: Any, evidence: Evidence, name: str, seed: int) -> Float[np.ndarray, "units"]:
    """How far from perfect each unit's own metric is, up to a constant; infinite where it is not defined for one."""
    units = evidence.units
    if len(units) > MOST:
        units = np.sort(np.random.default_rng([seed, 0x7A11]).choice(units, MOST, replace=False))
    order = np.argsort(evidence.unit, kind="stable")
    first = np.searchsorted(evidence.unit[order], units, "left")
    last = np.searchsorted(evidence.unit[order], units, "right")
    fact, found = task.metric_facts[name], []
    for low, high in zip(first, last, strict=True):
        rows = order[low:high]
        one = replace(
            evidence,
            unit=evidence.unit[rows],
            columns={key: column[rows] for key, column in evidence.columns.items()},
            weight=None if evidence.weight is None else evidence.weight[rows],
        )
        with np.errstate(all="ignore"):
            found.append(distance(float(task.metrics(one).get(name, np.nan)), fact))
    return np.array(found)


def _tail(errors: Float[np.ndarray, "units"], weights: Float[np.ndarray, "draws units"], share: float) -> Any:
    """Mean error of the worst ``share`` of the weighted units."""
    order = np.argsort(-errors)
    taken = np.clip(share * weights.sum(1, keepdims=True) - (weights[:, order].cumsum(1) - weights[:, order]), 0, None)
    taken = np.minimum(taken, weights[:, order])
    return (taken * errors[order]).sum(1) / taken.sum(1)


def tail_gain(
    task: Any, champion: Evidence, challenger: Evidence, name: str, *, share: float, level: float, draws: int, seed: int
) -> Mapping[str, float] | None:
    """How much better the challenger serves its own worst ``share`` of units than the champion serves its own worst.

    Value, low and high in the metric's unit, by resampling the same units for both. None where there are fewer than
    20 units, or the metric is not defined for a unit by itself.
    """
    each = [errors_by_unit(task, evidence, name, seed) for evidence in (champion, challenger)]
    known = np.isfinite(each[0]) & np.isfinite(each[1])
    if known.sum() < max(LEAST, len(known) / 2):
        return None
    old, new = (errors[known] for errors in each)
    once = np.ones((1, len(old)))
    value = float((_tail(old, once, share) - _tail(new, once, share))[0])
    drawn = [_tail(old, w, share) - _tail(new, w, share) for w in unit_weights(len(old), draws, seed)]
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
