"""What a sceptic tries first: a threshold, a blurred threshold, and a classifier of single voxels' surroundings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int32
from scipy import ndimage

from ..task import Split
from .data.pairs import Grid
from .plan import Plan, normalised
from .segment_source import SegmentData

BINS = 64
LIMIT = 4.0  # deviations beyond which intensities are not told apart
SIGMAS = (1.0, 2.0, 4.0)  # voxels, of which validation chooses
FIT_VOXELS = 30_000  # of all training cases, for the classifier
SHRINK = 10.0  # voxels of even chance that stand in every bin


@dataclass(frozen=True)
class Histogram:
    """Log probability of every structure in each bin of the first channel's normalised intensity, blurred before."""

    table: Float[np.ndarray, "bins K"]
    sigma: float

    def __call__(self, image: Float32[np.ndarray, "C *axes"]) -> Int32[np.ndarray, "*axes"]:
        return self.table.argmax(1).astype(np.int32)[_bin(_blurred(image[0], self.sigma))]


def _blurred(x: Float32[np.ndarray, "*axes"], sigma: float) -> Float32[np.ndarray, "*axes"]:
    return ndimage.gaussian_filter(x, sigma) if sigma else x


def _bin(x: Float32[np.ndarray, "*axes"]) -> Int[np.ndarray, "*axes"]:
    return ((np.clip(x, -LIMIT, LIMIT) + LIMIT) / (2 * LIMIT) * (BINS - 1)).round().astype(np.int64)


def mean_dice(truth: Sequence[Any], guess: Sequence[Any], structures: int) -> float:
    """Over structures, of all cases' voxels together."""
    both, total = np.zeros(structures), np.zeros(structures)
    for t, g in zip(truth, guess, strict=True):
        counts = t >= 0
        for k in range(structures):
            a, b = (t == k) & counts, (g == k) & counts
            both[k] += 2 * (a & b).sum()
            total[k] += a.sum() + b.sum()
    score = both[1:] / np.maximum(total[1:], 1)
    return float(score[total[1:] > 0].mean()) if (total[1:] > 0).any() else 0.0


def fit_histogram(cases: Sequence[tuple[Any, Any]], structures: int, sigma: float) -> Histogram:
    """Counts of the training cases; the background's share is weighed so that training Dice is best."""
    counts = np.zeros((BINS, structures))
    for image, labels in cases:
        at = _bin(_blurred(image[0], sigma))
        for k in range(structures):
            counts[:, k] += np.bincount(at[labels == k], minlength=BINS)
    counts += SHRINK * counts.sum(0) / counts.sum()
    share = counts / counts.sum(1, keepdims=True)
    best, chosen = -1.0, share
    for factor in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0):
        table = share * np.array([factor, *[1.0] * (structures - 1)])
        pick = table.argmax(1)  # Dice of the counts themselves
        hit = np.array([counts[pick == k, k].sum() for k in range(1, structures)])
        size = np.array([counts[pick == k].sum() + counts[:, k].sum() for k in range(1, structures)])
        score = float((2 * hit / np.maximum(size, 1)).mean())
        if score > best:
            best, chosen = score, table
    return Histogram(chosen, sigma)


def surroundings(image: Float32[np.ndarray, "C *axes"]) -> Float32[np.ndarray, "F *axes"]:
    """Of every voxel: intensity, blurs, their differences, gradient, curvature, spread, largest and least around."""
    x = image[0]
    blurs = [ndimage.gaussian_filter(x, s) for s in SIGMAS]
    found = [*image, *blurs, x - blurs[0], blurs[0] - blurs[1], blurs[1] - blurs[2]]
    for blur in blurs[:2]:
        found.append(np.sqrt(sum(np.gradient(blur, axis=a) ** 2 for a in range(x.ndim))))
        second = [np.gradient(np.gradient(blur, axis=a), axis=a) for a in range(x.ndim)]
        found += [np.sum(second, 0), np.max(second, 0)]
    spread = ndimage.uniform_filter(x**2, 5) - ndimage.uniform_filter(x, 5) ** 2
    found += [np.sqrt(np.maximum(spread, 0)), ndimage.minimum_filter(blurs[0], 7), ndimage.maximum_filter(blurs[0], 7)]
    return np.stack(found).astype(np.float32)


def fit_forest(cases: Sequence[tuple[Any, Any]], seed: int = 0) -> Callable[[Any], Any]:
    """A random forest on the surroundings of voxels drawn evenly from the training cases."""
    from sklearn.ensemble import RandomForestClassifier

    rng, rows, truth = np.random.default_rng(seed), [], []
    each = max(1, FIT_VOXELS // len(cases))
    for image, labels in cases:
        at = np.flatnonzero(labels.ravel() >= 0)
        at = rng.choice(at, min(each, len(at)), replace=False)
        features = surroundings(image)
        rows.append(features.reshape(len(features), -1)[:, at].T)
        truth.append(labels.ravel()[at])
    forest = RandomForestClassifier(40, min_samples_leaf=5, max_depth=14, random_state=seed, n_jobs=1)
    forest.fit(np.concatenate(rows), np.concatenate(truth))

    def predict(image: Any) -> Any:
        features = surroundings(image)
        return forest.predict(features.reshape(len(features), -1).T).reshape(image.shape[1:]).astype(np.int32)

    return predict


def fitted_rivals(data: SegmentData, split: Split, plan: Plan) -> dict[str, Callable[[Any], Any]]:
    """Name -> normalised image to positions. Fitted on the training part, the blur chosen on validation."""
    structures = len(data.structures.values)
    train, val = ([_pair(data.piece(row), plan) for row in split.parts[p]] for p in ("train", "val"))
    blurred = [fit_histogram(train, structures, sigma) for sigma in SIGMAS]
    scored = [mean_dice([y for _, y in val], [h(x) for x, _ in val], structures) for h in blurred]
    return {
        "threshold": fit_histogram(train, structures, 0.0),
        "blurred threshold": blurred[int(np.argmax(scored))],
        "voxel forest": fit_forest(train),
    }


def _pair(grid: Grid, plan: Plan) -> tuple[Any, Any]:
    return normalised(grid.image, plan), grid.labels
