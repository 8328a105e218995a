"""A linear probe: what plain logistic regression makes of the features, where there are labels.

Shapes: n cases, D features, E = D + 1 weights and an offset, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = (0.01, 0.1, 1.0, 10.0)
ABSENT = -30.0  # logit of a class that training lacks
Parts = Mapping[str, Any]  # "train", "val" -> array


def _line(x: Parts, y: Parts) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, "K"]]:
    """Weights and offsets on the features as they are; the penalty is chosen on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x["train"])
    best, kept = np.inf, None
    for c in PENALTIES:
        fit = LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(x["train"]), y["train"])
        known = np.isin(y["val"], fit.classes_)
        cost = 0.0
        if known.any():
            p = fit.predict_log_proba(scaler.transform(x["val"][known]))
            cost = -float(p[np.arange(len(p)), np.searchsorted(fit.classes_, y["val"][known])].mean())
        if cost < best:
            best, kept = cost, fit
    assert kept is not None
    weights = kept.coef_ / scaler.scale_
    return weights, kept.intercept_ - weights @ scaler.mean_


def fitted_probe(x: Parts, target: Parts, exclusive: bool) -> Float[Tensor, "L E"]:
    """Logits are features times weights plus the offset. x: features; target: 1, 0, or NaN where not known.

    A label that training does not know in both outcomes has one logit for every case.
    """
    labels, width = target["train"].shape[1], x["train"].shape[1]
    found = np.zeros((labels, width + 1))
    if exclusive:
        y = {part: t.argmax(1) for part, t in target.items()}
        classes = np.unique(y["train"])
        found[:, -1] = np.where(np.isin(np.arange(labels), classes), 0.0, ABSENT)
        if len(classes) > 1:
            weights, offset = _line(x, y)
            if len(classes) == 2:  # one line tells two classes apart
                weights, offset = np.stack([-weights[0], weights[0]]) / 2, np.array([-offset[0], offset[0]]) / 2
            found[classes] = np.column_stack([weights, offset])
        return torch.from_numpy(found).float()
    for i in range(labels):
        known = {part: ~np.isnan(t[:, i]) for part, t in target.items()}
        y = {part: t[known[part], i].astype(int) for part, t in target.items()}
        if len(np.unique(y["train"])) > 1:
            weights, offset = _line({part: v[known[part]] for part, v in x.items()}, y)
            found[i] = np.append(weights[0], offset[0])
    return torch.from_numpy(found).float()
