"""What a sceptic would try first: how often each word occurs, and the middle of each number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from domains.scoring import class_evidence
from domains.task import Evidence, Fitted, Split
from domains.threads import one_thread

from .data import Events
from .items import coded


def bags(data: Events, codes: Int64[np.ndarray, "N c"], fitted: Fitted, rows: Any) -> Float[np.ndarray, "n F"]:
    """Counts of words, means of numbers, the last event's words and numbers, how many events and how long."""
    sizes = [2 + len(v) for v in fitted["vocabulary"]]
    found = []
    for first, last in data.examples[rows]:
        mine = slice(first, last + 1)
        counts = [np.bincount(codes[mine, c], minlength=n) for c, n in enumerate(sizes)]
        ends = [np.eye(n)[codes[last, c]] for c, n in enumerate(sizes)]
        numbers = np.nan_to_num((data.numbers[mine] - fitted["mean"]) / fitted["std"])
        rest = [numbers.mean(0), numbers[-1], [last - first + 1, data.time[last] - data.time[first]]]
        found.append(np.concatenate([*counts, *ends, *rest]))
    return np.array(found, np.float64)


def all_baselines(data: Events, split: Split, fitted: Fitted, truth: Any, labels: Any) -> Mapping[str, Evidence]:
    """Logistic regression and gradient boosting on bags of events, and the most frequent class."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, test = coded(data, fitted), split.parts["test"]
    known = np.concatenate([split.parts["train"], split.parts["val"]])
    x, y = bags(data, codes, fitted, known), bags(data, codes, fitted, test)
    classes = len(fitted["classes"])
    shares = np.bincount(labels, minlength=classes) / len(labels)
    found = {"most frequent class": np.tile(shares, (len(test), 1))}
    models: dict[str, Any] = {
        "logistic regression on bags of events": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "gradient boosting on bags of events": HistGradientBoostingClassifier(max_iter=150, random_state=0),
    }
    for name, model in models.items():
        p = np.full((len(test), classes), 1e-6)
        with one_thread():
            model.fit(x, labels)
            p[:, model.classes_] += model.predict_proba(y)
        found[name] = p / p.sum(1, keepdims=True)
    return {name: class_evidence(test, truth, p) for name, p in found.items()}
