"""What needs no network: low-rank projection, total variation. Their one number is chosen on validation blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

Cube = Float[np.ndarray, "b rows cols"]
Held = tuple[Float[np.ndarray, "b _ _"], Float[np.ndarray, "b _ _"]]  # given and clean, of any size each
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)  # of total variation, times the range
TV_STEPS = 40


def low_rank(y: Cube, rank: float) -> Cube:
    """The nearest cube whose spectra span ``rank`` dimensions: truncated singular values of (b, pixels)."""
    flat = y.reshape(len(y), -1)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    k = int(rank)
    return np.asarray(((u[:, :k] * s[:k]) @ v[:k]).reshape(y.shape))


def total_variation(y: Cube, weight: float) -> Cube:
    """min ||x - y||^2 / 2 + weight TV(x) band by band, by projection (Chambolle 2004)."""
    p = np.zeros((2, *y.shape))
    x = y
    for _ in range(TV_STEPS):
        x = y + weight * _divergence(p)
        g = _gradient(x) / weight
        p = p + 0.25 * g
        p /= np.maximum(1.0, np.sqrt((p**2).sum(0)))
    return np.asarray(y + weight * _divergence(p))


def _gradient(x: Cube) -> Float[np.ndarray, "2 b rows cols"]:
    g = np.zeros((2, *x.shape))
    g[0, :, :-1] = x[:, 1:] - x[:, :-1]
    g[1, :, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    return g


def _divergence(p: Float[np.ndarray, "2 b rows cols"]) -> Cube:
    """Minus the adjoint of :func:`_gradient`."""
    d = np.zeros(p.shape[1:])
    d[:, :-1] += p[0, :, :-1]
    d[:, 1:] -= p[0, :, :-1]
    d[:, :, :-1] += p[1, :, :, :-1]
    d[:, :, 1:] -= p[1, :, :, :-1]
    return d


def chosen(
    method: Callable[[Cube, float], Cube], options: Sequence[float], pairs: Sequence[Held]
) -> Callable[[Cube], Cube]:
    """The method with the option of least squared error on (given, clean) validation blocks."""
    most = min(min(y.shape[0], y.shape[1] * y.shape[2]) for y, _ in pairs)
    tried = [o for o in options if method is not low_rank or o <= most]
    errors = [sum(float(((method(y, o) - x) ** 2).sum()) for y, x in pairs) for o in tried]
    best = tried[int(np.argmin(errors))]
    return lambda y: method(y, best)
