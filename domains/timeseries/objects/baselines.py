"""What a sceptic would try first. They learn from training and validation together, as they choose nothing on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64

from domains.calibration import fitted_temperature
from domains.scoring import class_evidence, softmax
from domains.task import Evidence, Fitted, Split
from domains.threads import one_thread

from .closed import Ridge, fit_ridge
from .collection import Objects
from .convolutions import FixedConvolutions
from .items import ObjectItems, filled
from .neighbours import BAND_SHARE, euclidean, nearest_shares, warped_matrix
from .trend import persisting

if TYPE_CHECKING:
    from ..classify import Classify


def all_baselines(task: Classify, data: Objects, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
    """Every baseline on the test part, in the same units as the model."""
    known = np.concatenate([split.parts["train"], split.parts["val"]])
    test = split.parts["test"]
    labels, truth = task.targets(data, known, fitted), task.targets(data, test, fitted)
    classes = len(fitted["classes"])
    found: dict[str, Float[np.ndarray, "n K"]] = {}
    if data.regular:
        found |= _neighbours(data, known, test, labels, classes, task.config.dtw_cells)
        found["MiniRocket ridge"] = _convolution_ridge(data, known, test, labels, classes, task.config.convolutions)
    if data.feature_names:
        table = np.concatenate([data.features, data.static], 1)
        found["gradient boosting on statistics and periods"] = boosted(table[known], labels, classes)(table[test])
        found["ridge on statistics and periods"] = _table_ridge(table, known, test, labels, classes)
    if "trend" in fitted:
        series = [data.series[i] for i in test]
        last = persisting(series, data.channels, fitted["trend"], fitted["classes"])
        if last is not None:
            found["the trend so far"] = (np.eye(classes)[last] + 1 / classes) / 2
    shares = np.bincount(labels, minlength=classes) / len(labels)
    found["most frequent class"] = np.tile(shares, (len(test), 1))
    return {name: class_evidence(test, truth, p) for name, p in found.items()}


def same_length(data: Objects, rows: Int64[np.ndarray, "n"], length: int) -> Float[np.ndarray, "n T V"]:
    """Filled series stretched to one length by straight lines; those that have it stay as they are."""
    out = np.zeros((len(rows), length, len(data.channels)))
    for one, i in zip(out, rows, strict=True):
        s = filled(data.series[i])
        if len(s) == length:
            one[:] = s
            continue
        at = np.linspace(0, len(s) - 1, length)
        for v in range(s.shape[1]):
            one[:, v] = np.interp(at, np.arange(len(s)), s[:, v])
    return out


def _neighbours(data: Objects, known: Any, test: Any, labels: Any, classes: int, cells: int) -> dict[str, Any]:
    length = int(data.lengths[known].max())
    a, b = same_length(data, test, length), same_length(data, known, length)
    found = {"1-NN Euclidean": nearest_shares(euclidean(a, b), labels, classes)}
    width = max(1, round(BAND_SHARE * length))
    if len(a) * len(b) * length * 2 * width * len(data.channels) <= cells:
        shares = nearest_shares(warped_matrix(a, b, width), labels, classes)
        found[f"1-NN DTW ({100 * BAND_SHARE:.0f} % band)"] = shares
    return found


def _ridge_shares(ridge: Ridge, labels: Any, scores: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    """Probabilities at the temperature of the held-out scores."""
    return softmax(scores / fitted_temperature(torch.from_numpy(ridge.held_out), torch.from_numpy(labels)))


def _convolution_ridge(data: Objects, known: Any, test: Any, labels: Any, classes: int, features: int) -> Any:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)  # the draws of this baseline are its own, and leave those of the run as they are
    fixed = FixedConvolutions(int(data.lengths[known].max()), len(data.channels), features)
    torch.random.set_rng_state(state)
    batch = ObjectItems(data, known).batch(range(len(known)))
    fixed.fit(batch["x"], batch["length"])
    x = fixed(batch["x"], batch["length"]).double().numpy()
    ridge = fit_ridge(x, labels, classes)
    rest = ObjectItems(data, test).batch(range(len(test)))
    scores = fixed(rest["x"], rest["length"]).double().numpy() @ ridge.weight + ridge.bias
    return _ridge_shares(ridge, labels, scores)


def boosted(
    table: Float[np.ndarray, "n F"], labels: Int64[np.ndarray, "n"], classes: int
) -> Callable[[Float[np.ndarray, "m F"]], Float[np.ndarray, "m K"]]:
    """Gradient boosting on a table of statistics: rows of such a table -> class shares."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    usable = np.isfinite(table).any(0)
    model = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.06, min_samples_leaf=5, random_state=0)
    with one_thread():
        model.fit(table[:, usable], labels)

    def shares_of(rows: Float[np.ndarray, "m F"]) -> Float[np.ndarray, "m K"]:
        shares = np.full((len(rows), classes), 1e-6)
        with one_thread():
            shares[:, model.classes_] += model.predict_proba(rows[:, usable])
        return np.asarray(shares / shares.sum(1, keepdims=True))

    return shares_of


def _table_ridge(table: Any, known: Any, test: Any, labels: Any, classes: int) -> Any:
    x = table[known]
    seen = np.isfinite(x)
    mean = np.where(seen, x, 0).sum(0) / np.maximum(seen.sum(0), 1)
    ridge = fit_ridge(np.where(seen, x, mean), labels, classes)
    scores = np.where(np.isfinite(table[test]), table[test], mean) @ ridge.weight + ridge.bias
    return _ridge_shares(ridge, labels, scores)
