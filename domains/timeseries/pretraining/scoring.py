"""Rollouts over all tables beside what a sceptic would try, as additive statistics per table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from domains.task import Batch, Evidence, Fitted, MetricFact, Split

from ..ridge import fit_ridge, zscored
from ..splits import origins, thinned
from ..windows import windows
from .mixture import Mixture, PretrainConfig, Series, own_parts, seasons_of, units_of

FACTS: dict[str, MetricFact] = {
    "mse": MetricFact("z-scored", "lower", "mean squared error of the steps ahead, of each table alike"),
    "mae": MetricFact("z-scored", "lower", "mean absolute error of the steps ahead, of each table alike"),
}
Teller = Callable[[np.ndarray, Batch], Float[np.ndarray, "B H"]]
RIDGE_ORIGINS = 3000


def score(tell: Teller, items: Series, tables: int) -> Evidence:
    """Sums of errors per unit, (rows, tables) and, per step ahead, (rows, tables, H)."""
    names, where = np.unique(units_of(items), return_inverse=True)
    shape = (len(names), tables, items.ahead)
    sums = {key: np.zeros(shape) for key in ("n", "se", "ae")}
    for rows, batch in items.chunks():
        want, seen = (batch[k][:, items.lookback :].numpy() for k in ("x", "seen"))
        error = np.where(seen, want - tell(rows, batch), 0.0).astype(np.float64)
        at = (where[rows], items.places[rows, 0])
        for key, value in (("n", seen), ("se", error**2), ("ae", np.abs(error))):
            np.add.at(sums[key], at, value)
    return Evidence(names, sums)


def metrics(evidence: Evidence) -> dict[str, float]:
    """Mean over tables of each table's mean over all observed steps."""
    count = evidence.sum("n").sum(-1)
    known = count > 0
    mean = lambda key: float(np.mean(evidence.sum(key).sum(-1)[known] / count[known])) if known.any() else np.nan  # noqa: E731
    return {"mse": float(mean("se")), "mae": float(mean("ae"))}


def by_table(evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
    """One row per table: errors over the whole horizon, and of its first quarter."""
    found = []
    for i, name in enumerate(fitted["tables"]):
        row: dict[str, Any] = {"table": name}
        for words, steps in (("", slice(None)), ("_first_quarter", slice(0, max(1, evidence.sum("n").shape[1] // 4)))):
            count = float(evidence.sum("n")[i, steps].sum())
            row |= {f"{key}{words}": float(evidence.sum(s)[i, steps].sum()) / count if count else None
                    for key, s in (("mse", "se"), ("mae", "ae"))}  # fmt: skip
        found.append(row)
    return found


def _past(items: Series, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return tuple(batch[k][:, : items.lookback].numpy() for k in ("x", "seen"))  # type: ignore[return-value]


def _last(items: Series) -> Teller:
    def tell(rows: np.ndarray, batch: Batch) -> Float[np.ndarray, "B H"]:
        x, seen = _past(items, batch)
        newest = np.where(seen, np.arange(items.lookback), 0).max(1)
        return np.repeat(x[np.arange(len(x)), newest][:, None], items.ahead, 1)

    return tell


def _seasonal(items: Series, seasons: list[int]) -> Teller:
    def tell(rows: np.ndarray, batch: Batch) -> Float[np.ndarray, "B H"]:
        x, _ = _past(items, batch)
        out = np.zeros((len(x), items.ahead))
        for p in np.unique(items.places[rows, 0]):
            mine, season = items.places[rows, 0] == p, min(seasons[p], items.lookback)
            out[mine] = x[mine][:, items.lookback - season + np.arange(items.ahead) % season]
        return out

    return tell


def _ridges(data: Mixture, split: Split, fitted: Fitted, items: Series) -> Teller:
    """The window ridge of each table by itself, for this one horizon."""
    maps = []
    train, val = own_parts(data, split, "train"), own_parts(data, split, "val")
    for p, panel in enumerate(data.panels):
        table = fitted["tables"][data.names[p]]
        mean, std = np.asarray(table["mean"]), np.asarray(table["std"])
        known, held = (
            zscored(windows(panel, thinned(origins(steps, items.lookback, items.ahead), RIDGE_ORIGINS),
                            items.lookback, items.ahead, 1), mean, std)
            for steps in (train[p], val[p])
        )  # fmt: skip
        maps.append(fit_ridge(known, held, np.zeros((1, len(panel.names)))))

    def tell(rows: np.ndarray, batch: Batch) -> Float[np.ndarray, "B H"]:
        x, seen = _past(items, batch)
        out = np.zeros((len(x), items.ahead))
        for p in np.unique(items.places[rows, 0]):
            mine = items.places[rows, 0] == p
            v, s = x[mine], seen[mine]
            mean = np.where(s, v, 0.0).sum(1, keepdims=True) / np.maximum(1, s.sum(1, keepdims=True))
            out[mine] = np.where(s, v - mean, 0.0) @ maps[p].weight + mean
        return out

    return tell


def all_baselines(
    data: Mixture, split: Split, fitted: Fitted, items: Series, config: PretrainConfig
) -> Mapping[str, Evidence]:
    """Repeat-last, seasonal naive, and a window ridge per table, on the same windows."""
    tables = len(data.panels)
    return {
        "repeat last": score(_last(items), items, tables),
        "seasonal naive": score(_seasonal(items, seasons_of(data, config)), items, tables),
        "window ridge, one per table": score(_ridges(data, split, fitted, items), items, tables),
    }
