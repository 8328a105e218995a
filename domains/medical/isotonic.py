"""Isotonic calibration: the rising step function nearest to what is true, as a curve of a fixed number of knots.

In the spirit of "Transforming Classifier Scores into Accurate Multiclass Probability Estimates" (Zadrozny and Elkan
2002): one curve per label, and of exclusive classes the curves' values are brought to the sum 1.

Shapes: B cases, L labels, M knots.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

KNOTS = 32
Points = Float64[np.ndarray, "m"]


def pooled(score: Points, truth: Points) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "k"]]:
    """(scores in order, the rising values with the least squared error at them): adjacent violators are pooled."""
    at, place, count = np.unique(score, return_inverse=True, return_counts=True)
    mean = np.bincount(place, truth) / count
    blocks: list[tuple[float, float, int]] = []  # value, weight, scores in it
    for value, weight in zip(mean.tolist(), count.tolist(), strict=True):
        block = (value, float(weight), 1)
        while blocks and blocks[-1][0] >= block[0]:
            v, w, n = blocks.pop()
            block = ((v * w + block[0] * block[1]) / (w + block[1]), w + block[1], n + block[2])
        blocks.append(block)
    return at, np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def fitted_curve(score: Points, truth: Points) -> Float64[np.ndarray, "M 2"]:
    """Knots (probability before, after). Ends keep off 0 and 1 by one case in as many as were seen, and two."""
    at, value = pooled(score, truth)
    edge = np.ones(len(at), bool)  # ends of blocks; between them the value stands still
    edge[1:-1] = (value[1:-1] != value[:-2]) | (value[1:-1] != value[2:])
    at, value = at[edge], value[edge]
    chosen = np.round(np.linspace(0, len(at) - 1, KNOTS)).astype(np.int64)
    least = 1 / (len(score) + 2)
    return np.stack([at[chosen], value[chosen].clip(least, 1 - least)], 1)


def identity(labels: int) -> Float[Tensor, "L M 2"]:
    """Curves that change nothing."""
    return torch.linspace(0, 1, KNOTS)[None, :, None].repeat(labels, 1, 2)


def fitted_curves(
    probability: Float[Tensor, "B L"], target: Float[Tensor, "B L"], exclusive: bool
) -> Float[Tensor, "L M 2"]:
    """One per label from validation; identity where a label lacks an outcome there. Of two classes one the other's."""
    found = identity(probability.shape[1])
    for i in range(probability.shape[1]):
        known = ~target[:, i].isnan()
        truth = target[known, i].double().numpy()
        if truth.min(initial=1) == 0 and truth.max(initial=0) == 1:
            found[i] = torch.from_numpy(fitted_curve(probability[known, i].double().numpy(), truth)).float()
    if exclusive and len(found) == 2:
        found[0] = 1 - found[1].flip(0)
    return found


def curved(p: Float[Tensor, "B L"], curves: Float[Tensor, "L M 2"], exclusive: bool) -> Float[Tensor, "B L"]:
    """Probabilities along the curves, straight between knots; of exclusive classes they sum to 1."""
    x, y = curves.to(p.dtype).unbind(2)
    right = (p[..., None] >= x).long().sum(2).clamp(1, x.shape[1] - 1)
    label = torch.arange(len(x), device=p.device)
    x0, x1, y0, y1 = (v[label, k] for v in (x, y) for k in (right - 1, right))
    share = ((p - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)
    q = y0 + share * (y1 - y0)
    return q / q.sum(1, keepdim=True) if exclusive else q
