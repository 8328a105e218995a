"""Temperatures, rising curves and operating points, fitted on validation."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..calibration import fitted_temperature
from .classify_model import ImageClassifier
from .classify_scoring import operating_points
from .isotonic import fitted_curves


def fitted_temperatures(
    logits: Float[Tensor, "n L"], target: Float[Tensor, "n L"], exclusive: bool
) -> Float[Tensor, "T"]:
    """One for the softmax, or one per label: a sigmoid is a softmax over (z, 0). 1 where a label lacks an outcome."""
    if exclusive:
        return torch.tensor([fitted_temperature(logits, target.argmax(1))])
    found = torch.ones(logits.shape[1])
    for i in range(logits.shape[1]):
        known = ~target[:, i].isnan()
        truth = target[known, i] == 1
        if bool(truth.any()) and not bool(truth.all()):
            z = torch.stack([torch.zeros_like(logits[known, i]), logits[known, i]], 1)
            found[i] = fitted_temperature(z, truth.long())
    return found


def calibrate(
    model: ImageClassifier, logits: Float[Tensor, "n L"], target: Float[Tensor, "n L"], specificity: float
) -> None:
    """Sets a model's temperature, its curves where it has some, and its thresholds, from its outputs on validation."""
    device = model.temperature.device
    with torch.no_grad():
        model.temperature.copy_(fitted_temperatures(logits, target, model.exclusive).to(device))
        if model.curves is not None:
            tempered = model.tempered(logits.to(device)).cpu()
            model.curves.copy_(fitted_curves(tempered, target, model.exclusive).to(device))
        p = model.probabilities(logits.to(device)).cpu().numpy()
        points = operating_points(p, target.double().numpy().astype(np.float64), specificity)
        model.threshold.copy_(torch.from_numpy(points).float().to(device))
