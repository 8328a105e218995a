"""A linear probe: what a linear discriminant makes of the features, its shrinkage chosen on validation."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...calibration import fitted_temperature, smoothed_loss
from ..linear import discriminants

Labelled = tuple[Float[np.ndarray, "_ d"], Int64[np.ndarray, "_"]]  # features of pixels and their class positions


def fitted_probe(train: Labelled, val: Labelled, classes: int) -> Float[Tensor, "K E"]:
    """Weights and offset of every class, E = d + 1; logits are features times weights plus the offset."""
    truth = torch.from_numpy(val[1])
    best: tuple[float, Tensor] | None = None
    for found in discriminants(train[0], train[1], classes):
        logits = torch.from_numpy(val[0] @ found.weight.T + found.bias)
        temperature = fitted_temperature(logits, truth)
        loss = smoothed_loss(logits, truth, temperature)
        if best is None or loss < best[0]:
            whole = np.concatenate([found.weight, found.bias[:, None]], 1) / temperature
            best = loss, torch.from_numpy(whole)
    assert best is not None
    return best[1].float()
