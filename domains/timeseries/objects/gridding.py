"""Light curves on a regular grid, where the user asks for one: a Gaussian process in time, or folded at the period."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .collection import BAND, TIME, VALUE
from .periods import fourier_fit, weights_of

LENGTHS = (0.02, 0.05, 0.1, 0.2, 0.5)  # of the kernel, as shares of the span


def _matern(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "m"], length: float) -> Float[np.ndarray, "n m"]:
    x = np.sqrt(3) * np.abs(a[:, None] - b) / length
    return np.asarray((1 + x) * np.exp(-x))


def gaussian_process(
    t: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], variance: Float[np.ndarray, "n"], at: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "m"]:
    """Posterior mean of a Matern-3/2 process around the weighted mean; its length by the likelihood of LENGTHS."""
    mean = float((y / variance).sum() / (1 / variance).sum())
    scale = max(float(np.var(y)), 1e-12)
    span, best, found = max(float(np.ptp(t)), 1e-9), -np.inf, np.full(len(at), mean)
    for share in LENGTHS:
        k = scale * _matern(t, t, share * span) + np.diag(variance + 1e-8 * scale)
        low = np.linalg.cholesky(k)
        half = np.linalg.solve(low, y - mean)
        likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(low)).sum())
        if likelihood > best:
            best = likelihood
            found = mean + scale * _matern(at, t, share * span) @ np.linalg.solve(low.T, half)
    return found


def on_time_grid(curve: Float[np.ndarray, "n 4"], bands: int, steps: int) -> Float[np.ndarray, "T V"]:
    """Each band by itself on ``steps`` times from the first to the last observation; NaN for a band not observed."""
    at = np.linspace(curve[0, TIME], curve[-1, TIME], steps)
    out = np.full((steps, bands), np.nan)
    for b in range(bands):
        mine = curve[curve[:, BAND] == b]
        if len(mine):
            w = weights_of(mine[:, VALUE], mine[:, 2])
            out[:, b] = gaussian_process(mine[:, TIME], mine[:, VALUE], 1 / w, at)
    return out


def on_phase_grid(
    curve: Float[np.ndarray, "n 4"], bands: int, steps: int, period: float, harmonics: int = 3
) -> Float[np.ndarray, "T V"]:
    """One cycle by a Fourier series per band, from the phase where the best-observed band is least.

    NaN for a band with too few observations; an object without a period is NaN but for its first value.
    """
    out = np.full((steps, bands), np.nan)
    found = fourier_fit(curve, np.array([1 / period]), harmonics)[1] if np.isfinite(period) else {}
    if not found:
        out[0, int(curve[0, BAND])] = curve[0, VALUE]
        return out
    phase = 2 * np.pi * np.arange(steps) / steps
    columns = [np.ones(steps)]
    for k in range(1, harmonics + 1):
        columns += [np.cos(k * phase), np.sin(k * phase)]
    design = np.stack(columns, 1)
    for b, coefficients in found.items():
        out[:, b] = design @ coefficients[0]
    counts = {b: int((curve[:, BAND] == b).sum()) for b in found}
    fullest = max(counts, key=lambda b: counts[b])
    return np.roll(out, -int(out[:, fullest].argmin()), 0)
