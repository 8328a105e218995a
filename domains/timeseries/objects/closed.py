"""A ridge classifier in closed form, its penalty chosen by leaving one object out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

PENALTIES = np.logspace(-3, 3, 10)


@dataclass(frozen=True)
class Ridge:
    """scores = x @ weight + bias; ``held_out`` are the training objects' scores by models that did not see them."""

    weight: Float[np.ndarray, "F K"]
    bias: Float[np.ndarray, "K"]
    held_out: Float[np.ndarray, "n K"]
    penalty: float


def fit_ridge(x: Float[np.ndarray, "n F"], labels: Int64[np.ndarray, "n"], classes: int) -> Ridge:
    """One score per class towards 1 for its objects and -1 for the others, all features standardised.

    With centred X = U S V', the hat matrix is 11'/n + U diag(s^2 / (s^2 + a)) U', and the residual of object i without
    itself is r_i / (1 - h_ii) ("Generalized cross-validation", Golub, Heath and Wahba 1979).
    """
    n = len(x)
    target = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    middle, mean = x.mean(0), target.mean(0)
    scale = x.std(0)
    scale = np.where(scale > 1e-8, scale, np.inf)
    z = (x - middle) / scale
    u, s, vt = _svd(z)
    y = target - mean
    uy = u.T @ y
    outside = y - u @ uy  # nothing where there are more features than objects: rounding, which LOO would blow up
    spare = 1 - 1 / n - (u**2).sum(1)
    spare, outside = np.where(spare > 1e-9, spare, 0.0), np.where(spare[:, None] > 1e-9, outside, 0.0)
    best = None
    for penalty in PENALTIES:
        left = penalty / (s**2 + penalty)
        residual = outside + u @ (left[:, None] * uy)
        free = spare + (u**2) @ left
        held = residual / np.maximum(free, 1e-12)[:, None]
        cost = float((held**2).mean())
        if best is None or cost < best[0]:
            best = (cost, penalty, target - held)
    assert best is not None
    _, penalty, held_out = best
    weight = (vt.T @ ((s / (s**2 + penalty))[:, None] * uy)) / scale[:, None]
    return Ridge(weight, mean - middle @ weight, held_out, float(penalty))


def _svd(
    z: Float[np.ndarray, "n F"],
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "r"], Float[np.ndarray, "r F"]]:
    """Thin singular value decomposition by way of the smaller Gram matrix."""
    n, f = z.shape
    square, turned = np.linalg.eigh(z @ z.T if n <= f else z.T @ z)
    keep = square > 1e-10 * max(float(square[-1]), 1e-30)
    s = np.sqrt(square[keep])
    if n <= f:
        u = turned[:, keep]
        return u, s, (u / s).T @ z
    v = turned[:, keep]
    return (z @ v) / s, s, v.T
