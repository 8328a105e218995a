"""Tables of a report on light curves: how soon they are told, and the periods found beside known ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from domains.task import Fitted, Split

from .collection import Objects
from .early import early_rows, early_scores
from .model import SeriesClassifier

if TYPE_CHECKING:
    from ..classify import Classify

NEAR = 1e-3  # relative error of a period that counts as found
FOUND = {"Lomb-Scargle": 1, "the best candidate by a Fourier series": 0}  # places among the statistics


def all_tables(
    task: Classify, model: SeriesClassifier, data: Objects, split: Split, fitted: Fitted
) -> dict[str, list[dict[str, Any]]]:
    """Title -> rows."""
    tables = {"periods beside known ones": period_rows(data)} if data.feature_names else {}
    if not data.regular:
        tables["how soon it is told"] = soon(task, model, data, split, fitted)
    return tables


def soon(task: Classify, model: SeriesClassifier, data: Objects, split: Split, fitted: Fitted) -> list[dict[str, Any]]:
    """Accuracy on test objects by the share of the observations, from the first."""
    rows = early_rows(split)
    counts = np.bincount(task.targets(data, rows, fitted))
    return [
        {
            "observations %": round(100 * share), "objects": len(rows), "accuracy": round(own, 4),
            "gradient boosting": round(beside, 4), "most frequent class": round(float(counts.max() / counts.sum()), 4),
        }
        for share, (own, beside) in early_scores(task, model, data, split, rows, fitted).items()
    ]  # fmt: skip


def period_rows(data: Objects) -> list[dict[str, Any]]:
    """Per class and over all objects: the share whose period lies within NEAR of the known one, and median errors.

    The search takes nothing from training, so all objects of all parts are judged. Empty where no period is known.
    """
    known = data.known_periods
    if not np.isfinite(known).any():
        return []
    groups = {"all": np.isfinite(known)}
    groups |= {name: groups["all"] & (data.labels == i) for i, name in enumerate(data.classes)}
    rows = []
    for name, mine in groups.items():
        for method, place in FOUND.items():
            error = _errors(np.exp(data.features[mine, place]), known[mine])
            if len(error):
                rows.append({
                    "class": name, "objects": len(error), "method": method,
                    "within 0.1 %": round(100 * float((error <= NEAR).mean()), 2),
                    "median relative error": float(f"{np.median(error):.3g}"),
                })  # fmt: skip
    return rows


def _errors(found: Float[np.ndarray, "n"], known: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Relative errors; 1 where no period was found."""
    return np.where(np.isfinite(found), np.abs(found / known - 1), 1.0)
