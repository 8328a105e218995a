"""Drift: whether new inputs look, to a model, like those that it was trained on. Three tests, one false-alarm rate.

Population stability and Kolmogorov-Smirnov by their largest value over all features, each against what it is when the
labels "training" and "new" are shuffled: that is exact whatever the features' shape and dependence. A classifier
two-sample test catches what no feature shows alone. Each test has a third of the rate ``alpha``, so together they raise
a false alarm in at most a share ``alpha`` of batches, where rows are independent draws. Rows of one input may not be:
a batch gives about as many rows as the sample of the training part, taken evenly from its inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .features import FEATURES, ROWS, Reference, load_reference

ALPHA, DRAWS, BINS, LEAST = 0.03, 999, 10, 16
GROUPS = 8  # inputs; pieces of fewer scenes, graphs or tables are too alike to be called independent draws
REPORT = "drift.json"


@dataclass(frozen=True)
class Tried:
    """One test: its statistic (the largest over features), p value, and by which feature it is the largest."""

    name: str
    statistic: float
    p: float
    alarm: bool
    feature: str | None = None


@dataclass(frozen=True)
class Drift:
    """All that the tests found. ``alarm``: any of them. ``features``: name -> shift, population stability, KS."""

    alarm: bool
    alpha: float
    reference: int
    rows: int
    tests: tuple[Tried, ...]
    features: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def ks(order: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distances, (draws, d). order: (n, d) argsort of the pooled rows; new: (draws, n) labels."""
    share = new / new.sum(1, keepdims=True) - (1 - new) / (1 - new).sum(1, keepdims=True)
    return np.stack([np.abs(share[:, column].cumsum(1)).max(1) for column in order.T], 1)


def stability(order: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Population stability indices, (draws, d), over BINS bins that hold equally many pooled rows."""
    n = len(order)
    edges = np.linspace(0, n, BINS + 1).astype(int)[:-1]

    def shares(labels: np.ndarray, column: np.ndarray) -> np.ndarray:
        counts = np.add.reduceat(labels[:, column], edges, 1) + 0.5  # half a row: no bin is empty
        return counts / counts.sum(1, keepdims=True)

    found = []
    for column in order.T:
        a, b = shares(new, column), shares(1 - new, column)
        found.append(((a - b) * np.log(a / b)).sum(1))
    return np.stack(found, 1)


def _largest(
    name: str, statistic: Any, order: np.ndarray, labels: np.ndarray, names: Sequence[str], level: float
) -> Tried:
    found = statistic(order, labels)
    most = found.max(1)
    p = float((most >= most[0] - 1e-12).mean())  # the first labels are the true ones, and count as one of the draws
    return Tried(name, float(most[0]), p, p <= level, names[int(found[0].argmax())])


def _classifier(rows: np.ndarray, new: np.ndarray, rng: np.random.Generator, level: float) -> Tried:
    """A logistic regression, also on squares, fitted on one half and tried on the other: do its scores tell the two?"""
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression

    half = np.zeros(len(new), dtype=bool)
    for label in (0, 1):  # both halves hold both
        index = rng.permutation(np.flatnonzero(new == label))
        half[index[: len(index) // 2]] = True
    shape = np.concatenate([rows, rows**2], 1)
    centre, spread = shape[half].mean(0), shape[half].std(0)
    shape = (shape - centre) / np.where(spread > 0, spread, 1.0)
    judge = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200).fit(shape[half], new[half])
    scores, truth = judge.decision_function(shape[~half]), new[~half] == 1
    found = mannwhitneyu(scores[truth], scores[~truth], alternative="greater")
    area = float(found.statistic) / (int(truth.sum()) * int((~truth).sum()))
    return Tried("classifier two-sample (area under the curve)", area, float(found.pvalue), bool(found.pvalue <= level))


def drift(
    reference: np.ndarray,
    batch: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> Drift:
    """Hold (m, d) new rows against (n, d) training rows. Needs LEAST of both; raises ValueError with fewer."""
    if min(len(reference), len(batch)) < LEAST:
        raise ValueError(f"drift needs {LEAST} rows of both, got {len(reference)} and {len(batch)}")
    rng = np.random.default_rng(seed)
    rows = np.concatenate([reference, batch]).astype(np.float64)
    names = [f"feature {i + 1}" for i in range(rows.shape[1])] if names is None else list(names)
    new = np.r_[np.zeros(len(reference)), np.ones(len(batch))]
    labels = np.stack([new, *(rng.permutation(new) for _ in range(draws))])
    tied = rng.permutation(len(rows))  # equal values stand in random order, the same for every draw
    order = tied[np.argsort(rows[tied], axis=0, kind="stable")]
    level = alpha / 3
    tests = (
        _largest("population stability", stability, order, labels, names, level),
        _largest("Kolmogorov-Smirnov", ks, order, labels, names, level),
        _classifier(rows, new, rng, level),
    )
    spread = np.maximum(reference.std(0), 1e-12)
    shift = (batch.mean(0) - reference.mean(0)) / spread
    each = zip(names, shift, stability(order, labels[:1])[0], ks(order, labels[:1])[0], strict=True)
    features = {name: {"shift_sd": float(s), "psi": float(p), "ks": float(k)} for name, s, p, k in each}
    return Drift(any(t.alarm for t in tests), alpha, len(reference), len(batch), tests, features)


def outside(reference: np.ndarray, rows: np.ndarray) -> float:
    """Share of rows with a feature that is no number, or farther from the training range than that range is wide."""
    low, high = reference.min(0), reference.max(0)
    span = high - low
    bad = ~np.isfinite(rows) | (rows < low - span) | (rows > high + span)
    return float(bad.any(1).mean()) if len(rows) else 0.0


def against(reference: Reference, rows: np.ndarray) -> tuple[float, Drift | None]:
    """Share of projected rows that lie far outside a reference, and how they drifted; None with too few.

    Input features that no row has (a scene of other bands) are left out, then rows that are not all numbers.
    """
    there = np.isfinite(rows).any(0) | np.array([name.startswith("direction") for name in reference.names])
    far = outside(reference.rows[:, there], rows[:, there])
    good = rows[:, there][np.isfinite(rows[:, there]).all(1)]
    if len(good) < LEAST:
        return far, None
    names = [name for name, kept in zip(reference.names, there, strict=True) if kept]
    return far, drift(reference.rows[:, there], good, names)


def batch_rows(folders: Sequence[Path], width: int) -> np.ndarray:
    """(m, width) rows of a batch, evenly from its inputs' own; those that are not there are left out."""
    each = max(1, -(-ROWS // max(1, len(folders))))
    found = []
    for folder in folders:
        path = folder / FEATURES
        if path.is_file():
            rows = np.load(path, allow_pickle=False)
            found.append(rows[:each] if rows.ndim == 2 and rows.shape[1] == width else rows[:0])
    return np.concatenate([np.zeros((0, width), np.float32), *(f for f in found if f.shape[-1] == width)])


def _untested(rows: int, unit: str) -> str:
    """Why so many rows of a batch were not enough."""
    if not rows:
        return "the model's backbone was shown nothing of these inputs"
    if rows < LEAST:
        return f"{rows} {unit}(s) are too few to test; {LEAST} are needed"
    return f"fewer than {LEAST} of {rows} {unit}s hold numbers throughout; {LEAST} are needed"


def batch_drift(run: Path, folders: Sequence[Path]) -> dict[str, Any] | None:
    """The drift report of a batch whose outputs stand in ``folders``; None where the run keeps no sample.

    With too few rows to test, or rows that are pieces of a few inputs, ``alarm`` is None and ``why`` says so.
    """
    reference = load_reference(run)
    if reference is None:
        return None
    rows = batch_rows(folders, reference.rows.shape[1])
    facts = {"run": run.name, "unit": reference.unit, "inputs": len(folders), "rows": len(rows)}
    far, found = against(reference, rows)
    if found is None:
        return {**facts, "alarm": None, "why": _untested(len(rows), reference.unit)}
    worst = [f"{t.name}, p = {t.p:.2g}" for t in found.tests if t.alarm]
    why = f"unlike the training data: {'; '.join(worst)}" if worst else "like the training data"
    told = {**facts, **json.loads(json.dumps(found.to_json())), "outside_range": far, "why": why}
    if reference.pieces and len(folders) < GROUPS:
        told["alarm"] = None
        told["why"] = (
            f"shifts are told, not judged: rows are pieces of {len(folders)} input(s), which are alike by themselves; "
            f"{GROUPS} inputs are needed"
        )
    return told
