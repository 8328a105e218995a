"""Cross-entropy and soft Dice over the voxels that count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

SMOOTH = 1e-5


def dice_and_entropy(
    logits: Float[Tensor, "B K *axes"], target: Int64[Tensor, "B *axes"], dice: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over items, each weighted by its voxels that count (target >= 0), and their number.

    Of an item: mean cross-entropy + dice * (1 - mean soft Dice over the structures that it holds, without background).
    """
    counts = target >= 0
    weight = counts.flatten(1).sum(1).to(logits.dtype)
    truth = target.clamp_min(0)
    log_p = logits.log_softmax(1)
    each = -log_p.gather(1, truth[:, None])[:, 0] * counts
    entropy = each.flatten(1).sum(1) / weight.clamp_min(1)
    loss = entropy if dice == 0 else entropy + dice * (1 - soft_dice(log_p.exp(), truth, counts))
    total = weight.sum()
    return (loss * weight).sum() / total.clamp_min(1), total


def soft_dice(p: Float[Tensor, "B K *axes"], truth: Int64[Tensor, "B *axes"], counts: Tensor) -> Float[Tensor, "B"]:
    """2 |p y| / (|p| + |y|) of each item, mean over the structures that it holds; 1 where it holds none."""
    classes = p.shape[1]
    hot = F.one_hot(truth, classes).movedim(-1, 1).to(p.dtype) * counts[:, None]
    p = p * counts[:, None]
    both, of_p, of_y = ((a.flatten(2).sum(2)[:, 1:]) for a in (p * hot, p, hot))
    score = (2 * both + SMOOTH) / (of_p + of_y + SMOOTH)
    there = of_y > 0
    found = there.sum(1)
    mean = torch.where(there, score, 0.0).sum(1) / found.clamp_min(1)
    return torch.where(found > 0, mean, torch.ones_like(mean))
