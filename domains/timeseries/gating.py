"""How much of the backbone's correction is kept: as little as validation cannot tell from the best.

A trained correction with the least validation error is often so by chance: neighbouring windows share most of their
steps, so a validation part of thousands of windows may hold three independent ones. The one-standard-error rule
(Breiman et al., "Classification and Regression Trees", 1984) keeps the smallest share whose error is within one
standard error of the best share's, over blocks of windows that hardly overlap.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from .model import LOSSES, Forecaster
from .splits import units
from .windows import Windows, to_device

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def smallest_share(losses: Float[np.ndarray, "units S"]) -> float:
    """The share by the rule, from the summed losses of each unit under each of SHARES; 0 from fewer than two units."""
    if len(losses) < 2:
        return SHARES[0]
    excess = losses - losses[:, [int(losses.sum(0).argmin())]]
    error = np.sqrt(len(losses)) * excess.std(0, ddof=1)
    return SHARES[int(np.flatnonzero(excess.sum(0) <= error)[0])]


def share_losses(model: Forecaster, val: Windows, loss: str) -> Float[np.ndarray, "units S"]:
    """Summed loss over observed elements of each unit of windows, for every share of the correction."""
    names, where = np.unique(units(val.origins, val.lookback, val.horizon), return_inverse=True)
    total = np.zeros((len(names), len(SHARES)))
    model.eval()
    with torch.inference_mode():
        for places, cpu in val.chunks(val.per_window * 4):
            batch = to_device(cpu, model.mean.device)
            start, correction = model.parts(batch)
            known = batch["future_mask"]
            want = model.scaled(batch["future"], known)
            for i, share in enumerate(SHARES):
                each = LOSSES[loss](start + share * correction, want, reduction="none").masked_fill(~known, 0.0)
                np.add.at(total[:, i], where[places], each.sum((1, 2), dtype=torch.float64).cpu().numpy())
    return total
