"""How much of the backbone's correction is kept: as little as validation cannot clearly tell from the best."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from .clear import ERRORS, standard_error
from .model import LOSSES, Forecaster
from .splits import units
from .windows import Windows, to_device

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def smallest_share(losses: Float[np.ndarray, "units S"]) -> float:
    """The smallest of SHARES that is not clearly worse than the best, from each unit's summed losses.

    "The one-standard-error rule" of Breiman et al., "Classification and Regression Trees" (1984), with
    ERRORS standard errors; 0 from fewer than two units.
    """
    excess = losses - losses[:, [int(losses.sum(0).argmin())]]
    for share, difference in zip(SHARES, excess.T, strict=True):
        if difference.sum() <= ERRORS * standard_error(difference):
            return share
    return SHARES[-1]


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
