"""Classical classifiers of single spectra, on the same pixels: what a sceptic would try first."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from ..task import Evidence, Split
from .scoring import Tally
from .source import SceneData, spectra
from .splits import unit_of

MOST_TRAINING = 6000  # spectra, drawn evenly over classes: an SVM's time grows with their square
AT_ONCE = 20_000  # test spectra in memory at a time
SVM_C = (1.0, 10.0, 100.0, 1000.0)
SVM_GAMMA = (0.1, 0.3, 1.0, 3.0)  # times 1 / (number of bands)


def sample(label: Int64[np.ndarray, "n"], most: int) -> Int64[np.ndarray, "m"]:
    """Positions of at most ``most`` cases, every class with an equal share where it has that many."""
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(0)
    share = most // len(np.unique(label))
    chosen = [rng.permutation(np.flatnonzero(label == c))[:share] for c in np.unique(label)]
    return np.sort(np.concatenate(chosen))


def _best_svm(x: Float[np.ndarray, "n b"], y: Any, val: Float[np.ndarray, "v b"], wanted: Any) -> Any:
    """The RBF machine with the width and penalty that do best on validation (the first among equals)."""
    from sklearn.svm import SVC

    best: tuple[float, Any] = (-1.0, None)
    for c in SVM_C:
        for gamma in SVM_GAMMA:
            machine = SVC(C=c, gamma=gamma / x.shape[1]).fit(x, y)
            accuracy = float((machine.predict(val) == wanted).mean())
            if accuracy > best[0]:
                best = accuracy, machine
    return best[1]


class AngleMapper:
    """The class whose mean spectrum is at the least angle: the spectral angle mapper (Kruse et al. 1993)."""

    def __init__(self, x: Float[np.ndarray, "n b"], y: Any) -> None:
        self.classes = np.unique(y)
        self.means = _unit(np.stack([x[y == c].mean(0) for c in self.classes]))

    def predict(self, x: Float[np.ndarray, "n b"]) -> Any:
        return self.classes[(_unit(x) @ self.means.T).argmax(1)]


def _unit(x: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n b"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def classical(data: SceneData, split: Split, bands: list[int]) -> dict[str, Evidence]:
    """Evidence of SVM, random forest and one nearest neighbour on standardised spectra of the used bands, and of the
    spectral angle to each class's mean spectrum (as it was measured)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    flat = data.index.ravel().astype(np.int64)
    train = split.parts["train"][sample(flat[split.parts["train"]], MOST_TRAINING)]
    val = split.parts["val"][sample(flat[split.parts["val"]], MOST_TRAINING)]
    raw = _filled(data, train, bands)
    mean, std = raw.mean(0), raw.std(0)
    std = np.where(std > 0, std, 1.0)

    def standardised(at: Int64[np.ndarray, "n"]) -> Float[np.ndarray, "n b"]:
        return (_filled(data, at, bands) - mean) / std

    x, y = (raw - mean) / std, flat[train]
    fitted: dict[str, Any] = {
        "svm_rbf": _best_svm(x, y, standardised(val), flat[val]),
        "random_forest": RandomForestClassifier(300, random_state=0, n_jobs=1).fit(x, y),
        "nearest_neighbour": KNeighborsClassifier(1).fit(x, y),
    }
    angles = AngleMapper(raw, y)
    tallies = {name: Tally(data.class_ids) for name in (*fitted, "spectral_angle")}
    test = split.parts["test"]
    for start in range(0, len(test), AT_ONCE):
        at = test[start : start + AT_ONCE]
        found = standardised(at)
        unit, truth = unit_of(data, split, at), flat[at]
        for name, classifier in fitted.items():
            if name == "random_forest":
                shares = classifier.predict_proba(found)
                sure, guess = shares.max(1), classifier.classes_[shares.argmax(1)]
                tallies[name].add(unit, truth, guess, sure, sure)
            else:
                tallies[name].add(unit, truth, classifier.predict(found))
        tallies["spectral_angle"].add(unit, truth, angles.predict(found * std + mean))
    return {name: tally.evidence() for name, tally in tallies.items()}


def _filled(data: SceneData, at: Int64[np.ndarray, "n"], bands: list[int]) -> Float[np.ndarray, "n b"]:
    """Spectra of the used bands; a missing value takes its band's mean over these pixels."""
    values, seen = spectra(data, at)
    values, seen = values[:, bands].astype(np.float64), seen[:, bands]
    if not seen.all():
        mean = np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)
        values = np.where(seen, values, mean)
    return values
