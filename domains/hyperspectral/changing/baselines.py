"""Classical change detection on the same pixels; only thresholds, and the forest, are learned from labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ...task import Evidence, Split
from ..baselines import sample
from ..source import SceneData, spectra
from ..splits import unit_of
from .classical import angles, change_vectors, mad, normalised, reweighted_mad
from .scoring import best_threshold, cases

MOST = 20_000  # training pixels of the unsupervised methods
FOREST = 6_000
AT_ONCE = 50_000
Pair = tuple[Float[np.ndarray, "_ b"], Float[np.ndarray, "_ b"]]
Score = Callable[[Any, Any], Any]


def both_dates(data: SceneData, at: Int64[np.ndarray, "n"], used: list[int]) -> tuple[Pair, Any]:
    """Spectra of both dates at pixels, a band that one of them lacks at its mean; True where any is there."""
    values, seen = spectra(data, at)
    half = values.shape[1] // 2
    index = np.array(used)
    x, y = values[:, index].astype(np.float64), values[:, index + half].astype(np.float64)
    there = seen[:, index] & seen[:, index + half]
    count = np.maximum(there.sum(0), 1)
    x, y = (np.where(there, v, np.where(there, v, 0).sum(0) / count) for v in (x, y))
    return (x, y), there.any(1)


def some(at: Int64[np.ndarray, "n"], most: int) -> Int64[np.ndarray, "m"]:
    return at[:: max(1, -(-len(at) // most))]


def methods(data: SceneData, split: Split, used: list[int], components: int) -> dict[str, Score]:
    """Name -> function of the spectra of both dates, larger where there is more change."""
    from sklearn.ensemble import RandomForestClassifier

    (x, y), live = both_dates(data, some(split.parts["train"], MOST), used)
    x, y = x[live], y[live]
    linear, plain, again = normalised(x, y), mad(x, y, None, components), reweighted_mad(x, y, components)
    flat = data.index.ravel().astype(np.int64)
    few = split.parts["train"][sample(flat[split.parts["train"]], FOREST)]
    (fx, fy), there = both_dates(data, few, used)

    def apart(a: Any, b: Any) -> Any:
        return np.abs(b * linear.gain + linear.offset - a) / linear.std

    forest = RandomForestClassifier(300, random_state=0, n_jobs=1).fit(apart(fx, fy)[there], flat[few][there])
    column = list(forest.classes_).index(1)
    return {
        "change_vectors": lambda a, b: change_vectors(a, b, linear),
        "spectral_angle": angles,
        "mad": plain.squares,
        "ir_mad": again.squares,
        "random_forest": lambda a, b: forest.predict_proba(apart(a, b))[:, column],
    }


def classical(data: SceneData, split: Split, used: list[int], components: int) -> dict[str, Evidence]:
    """Evidence of every method on the test part, its threshold with the best F1 on validation."""
    flat, found = data.index.ravel(), {}
    for name, score in methods(data, split, used, components).items():

        def over(part: str, score: Score = score) -> tuple[Any, Any]:
            at = split.parts[part]
            values, kept = [], []
            for start in range(0, len(at), AT_ONCE):
                piece = at[start : start + AT_ONCE]
                (x, y), live = both_dates(data, piece, used)
                values.append(np.asarray(score(x, y))[live])
                kept.append(piece[live])
            return np.concatenate(values), np.concatenate(kept)

        held, where = over("val")
        threshold = best_threshold(held, flat[where])
        test, at = over("test")
        found[name] = cases(unit_of(data, split, at), test, flat[at], threshold)
    return found
