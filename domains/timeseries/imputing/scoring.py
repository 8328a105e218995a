"""Errors of filled values as additive statistics, their intervals, and the metrics made of them.

A filler is a function of a batch: ``(batch) -> (B, L, V)``, z-scored. Rows of the evidence are windows side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from domains.task import Batch, Evidence, Fitted, MetricFact

from .items import Gaps
from .model import KINDS, LEVELS, kind_of

Fill = Callable[[Batch], Float[np.ndarray, "B L V"]]
FEWEST = 20  # hidden values of a kind on which a width of its own is set

FACTS: Mapping[str, MetricFact] = {
    "mae": MetricFact("z-scored", "lower", "mean absolute error of hidden values, all series"),
    "mse": MetricFact("z-scored", "lower", "mean squared error of hidden values, all series"),
    "wape": MetricFact("1", "lower", "sum of absolute errors over that of values, original units, mean of series"),
    "coverage_80": MetricFact("%", "target", "share of hidden values inside the 80 % interval", target=80.0),
    "coverage_95": MetricFact("%", "target", "share of hidden values inside the 95 % interval", target=95.0),
}


def wanted(batch: Batch, fitted: Fitted) -> tuple[np.ndarray, np.ndarray]:
    """z-scored hidden values (B, L, V), 0 elsewhere, and where they stand."""
    asked = batch["asked"].numpy()
    mean, std = np.asarray(fitted["mean"]), np.asarray(fitted["std"])
    return np.where(asked, (batch["values"].numpy() - mean) / std, 0.0), asked


def widths(fill: Fill, val: Gaps, fitted: Fitted) -> Float[np.ndarray, "Q K V"]:
    """Half widths of the intervals from absolute errors on validation: split conformal, by how far the next seen value
    is, each series by its own mean error. A kind with few values takes the width of the next nearer one.
    """
    errors, kinds, series = [], [], []
    for _, batch in val.chunks():
        y, asked = wanted(batch, fitted)
        errors.append(np.abs(y - fill(batch))[asked])
        kinds.append(kind_of(batch["seen"]).numpy()[asked])
        series.append(np.nonzero(asked)[2])
    error, kind, at = (np.concatenate(parts) for parts in (errors, kinds, series))
    count = np.bincount(at, minlength=len(fitted["names"]))
    own = np.bincount(at, error, len(fitted["names"])) / np.maximum(1, count)
    scale = np.where(own > 0, own, error.mean() if len(error) and error.mean() > 0 else 1.0)
    found = np.zeros((len(LEVELS), len(KINDS), len(scale)))
    for k in range(len(KINDS)):
        ratio = (error / scale[at])[kind == k]
        if len(ratio) < FEWEST:
            found[:, k] = found[:, k - 1] if k else np.quantile(error / scale[at], [v / 100 for v in LEVELS])[:, None]
            continue
        exact = [min(1.0, np.ceil((len(ratio) + 1) * v / 100) / len(ratio)) for v in LEVELS]
        found[:, k] = np.quantile(ratio, exact, method="higher")[:, None]
    return found * scale


def score(fill: Fill, width: Float[np.ndarray, "Q K V"], source: Gaps, fitted: Fitted) -> Evidence:
    """Evidence of a filler over all windows; a chunk of them is held at a time."""
    rows: list[dict[str, np.ndarray]] = []
    mean, std = np.asarray(fitted["mean"]), np.asarray(fitted["std"])
    for _, batch in source.chunks():
        y, asked = wanted(batch, fitted)
        error = np.where(asked, y - fill(batch), 0.0)
        size, kind = np.abs(error), kind_of(batch["seen"]).numpy()
        sums: dict[str, np.ndarray] = {
            "n": asked.sum(1), "se": (error**2).sum(1), "ae": size.sum(1), "abs_error": size.sum(1) * std,
            "abs_y": np.where(asked, np.abs(y * std + mean), 0.0).sum(1),
            "kind_n": np.stack([(asked & (kind == k)).sum((1, 2)) for k in range(len(KINDS))], 1),
            "kind_ae": np.stack([np.where(kind == k, size, 0.0).sum((1, 2)) for k in range(len(KINDS))], 1),
        }  # fmt: skip
        for q, level in enumerate(LEVELS):
            inside = asked & (size <= np.take_along_axis(width[q][None, None], kind[:, :, None], 2)[:, :, 0])
            sums[f"in_{level}"] = inside.sum(1)
            sums[f"kind_in_{level}"] = np.stack([(inside & (kind == k)).sum((1, 2)) for k in range(len(KINDS))], 1)
        rows.append(sums)
    columns = {name: np.concatenate([r[name] for r in rows]).astype(np.float64) for name in rows[0]}
    return Evidence(np.arange(len(source)), columns)


def metrics(evidence: Evidence) -> dict[str, float]:
    """Metrics named as in FACTS, each a mean over hidden values."""
    total = {name: evidence.sum(name) for name in evidence.columns}
    count = total["n"].sum()
    if count <= 0:
        return dict.fromkeys(FACTS, float("nan"))
    scored = total["abs_y"] > 0
    return {
        "mae": float(total["ae"].sum() / count),
        "mse": float(total["se"].sum() / count),
        "wape": float(np.mean(total["abs_error"][scored] / total["abs_y"][scored])) if scored.any() else float("nan"),
        **{f"coverage_{v}": float(100 * total[f"in_{v}"].sum() / count) for v in LEVELS},
    }


def by_series(evidence: Evidence, fitted: Fitted) -> list[dict[str, Any]]:
    """One row per series: MAE and MSE z-scored, MAE in original units, coverage; None where nothing was hidden."""
    total = {name: evidence.sum(name) for name in ("n", "ae", "se", "abs_error", *(f"in_{v}" for v in LEVELS))}
    found = []
    for v, name in enumerate(fitted["names"]):
        n = total["n"][v]
        mean = {k: float(total[k][v] / n) if n else None for k in total if k != "n"}
        row: dict[str, Any] = {"series": name, "n": int(n), "mae": mean["ae"], "mse": mean["se"]}
        found.append(row | {"mae_original": mean["abs_error"]} | {f"coverage_{q}": mean[f"in_{q}"] for q in LEVELS})
    return found


def fill_of(model: torch.nn.Module) -> Fill:
    """A filler's answers as the scores want them, in evaluation mode."""

    def fill(batch: Batch) -> Float[np.ndarray, "B L V"]:
        device = next(model.parameters()).device
        model.eval()
        with torch.no_grad():
            return model({k: v.to(device) for k, v in batch.items()}).double().cpu().numpy()

    return fill
