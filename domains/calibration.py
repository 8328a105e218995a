"""Temperature of the softmax, fitted on validation."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


def smoothed_loss(logits: Float[Tensor, "n K"], truth: Int64[Tensor, "n"], temperature: float) -> float:
    """Cross-entropy as if one case more had been seen, and mistaken for the class that came second.

    In the spirit of "Probabilistic Outputs for Support Vector Machines" (Platt 1999): without an error on validation
    the plain likelihood would ask for boundless confidence.
    """
    z = logits.double() / temperature
    log_p = z.log_softmax(1)
    right = log_p.gather(1, truth[:, None])
    second = log_p.scatter(1, truth[:, None], -torch.inf).amax(1)
    share = 1.0 / (len(z) + 2)
    return -float(((1 - share) * right[:, 0] + share * second).mean())


def fitted_temperature(logits: Float[Tensor, "n K"], truth: Int64[Tensor, "n"]) -> float:
    """The temperature in 0.001 to 1000 with the least smoothed loss: golden section on its logarithm."""

    def cost(log_t: float) -> float:
        return smoothed_loss(logits, truth, float(np.exp(log_t)))

    low, high, ratio = np.log(1e-3), np.log(1e3), (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = cost(a), cost(b)
    for _ in range(40):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = cost(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = cost(b)
    return float(np.exp((low + high) / 2))
