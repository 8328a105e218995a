"""A collaborative filter: alike cubes of voxels are stacked, transformed together, shrunk and put back.

"Nonlocal Transform-Domain Filter for Volumetric Data Denoising and Reconstruction" (Maggioni et al. 2013), written from
its equations with small settings: cubes of 4 x 4 x 4 voxels, 8 of them in a group, sought among near ones. First with a
hard threshold, then, matched on that estimate, with a Wiener filter.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.fft import dct

Cube = Float[np.ndarray, "b rows cols"]
SIDE, STEP, GROUP = 4, 3, 8
SPECTRAL, SPATIAL = 1, 4  # how far alike cubes are sought along bands and pixels
HARD = 2.7  # deviations of the noise below which a coefficient is taken for noise


def noise_level(y: Cube) -> float:
    """Deviation of white noise, from the median of diagonal details of pixels (Donoho and Johnstone 1994)."""
    y = y[:, : y.shape[1] // 2 * 2, : y.shape[2] // 2 * 2]
    detail = (y[:, ::2, ::2] - y[:, 1::2, ::2] - y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 2
    return float(np.median(np.abs(detail)) / 0.6745)


def collaborative(y: Cube) -> Cube:
    """The estimate of a cube under white noise of the deviation that its finest details show."""
    sigma = noise_level(y)
    if sigma <= 0:
        return y
    padded = [(0, max(0, SIDE - n)) for n in y.shape]
    x = np.pad(y, padded, mode="edge").astype(np.float32)
    first = _filtered(x, x, sigma, None)
    found = _filtered(x, first, sigma, first)
    return np.asarray(found[: y.shape[0], : y.shape[1], : y.shape[2]], dtype=y.dtype)


def _filtered(x: Any, guide: Any, sigma: float, estimate: Any) -> Any:
    """One pass: groups are matched on ``guide``; a Wiener filter after ``estimate``, else a hard threshold."""
    corners = np.stack([g.ravel() for g in np.meshgrid(*map(_starts, x.shape), indexing="ij")], 1)
    groups = _alike(guide, corners)  # (n, GROUP, 3)
    local = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    at = np.ravel_multi_index(tuple(np.moveaxis(groups[:, :, None] + local, -1, 0)), x.shape)  # (n, GROUP, 64)
    small = dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")
    within = np.kron(np.kron(small, small), small)
    across = dct(np.eye(GROUP, dtype=np.float32), axis=0, norm="ortho")

    def transformed(v: Any) -> Any:
        return across @ (v.ravel()[at] @ within.T)

    spectrum = transformed(x)
    if estimate is None:
        kept = np.abs(spectrum) > HARD * sigma
        shrunk, weight = spectrum * kept, 1 / np.maximum(kept.sum((1, 2)), 1)
    else:
        power = transformed(estimate) ** 2
        gain = power / (power + sigma**2)
        shrunk, weight = spectrum * gain, 1 / np.maximum((gain**2).sum((1, 2)), 1e-6)
    values = (across.T @ shrunk) @ within
    spread = np.broadcast_to(weight[:, None, None], values.shape)
    total = np.bincount(at.ravel(), (values * spread).ravel(), x.size)
    return (total / np.bincount(at.ravel(), spread.ravel(), x.size)).reshape(x.shape).astype(np.float32)


def _starts(size: int) -> Any:
    return np.unique([*range(0, size - SIDE, STEP), size - SIDE])


def _alike(guide: Any, corners: Any) -> Any:
    """For each corner (n, 3) the corners (n, GROUP, 3) of the cubes nearest to the one there, itself the first."""
    last = np.array(guide.shape) - SIDE
    reach = [range(-SPECTRAL, SPECTRAL + 1), *[range(-SPATIAL, SPATIAL + 1)] * 2]
    shifts = np.array(list(itertools.product(*reach)))
    far = np.empty((len(shifts), len(corners)), dtype=np.float32)
    for i, shift in enumerate(shifts):
        low, high = np.maximum(0, -shift), np.minimum(guide.shape, guide.shape - shift)
        if (high - low < SIDE).any():
            far[i] = np.inf
            continue
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        there = tuple(slice(a + s, b + s) for a, b, s in zip(low, high, shift, strict=True))
        sums = (guide[here] - guide[there]) ** 2
        for axis in range(3):
            total = np.cumsum(sums, axis=axis, dtype=np.float32)
            ahead = np.take(total, range(SIDE - 1, sums.shape[axis]), axis)
            behind = np.take(total, range(sums.shape[axis] - SIDE), axis)
            sums = ahead - np.concatenate([np.zeros_like(np.take(ahead, [0], axis)), behind], axis)
        moved = corners + shift
        fits = ((moved >= 0) & (moved <= last)).all(1)
        inner = corners[fits] - low
        far[i] = np.inf
        far[i, fits] = sums[tuple(inner.T)]
    far[(shifts == 0).all(1)] = -1.0
    count = min(GROUP, int(np.isfinite(far).sum(0).min()))
    best = np.argpartition(far, count - 1, axis=0)[:count]
    best = np.take_along_axis(best, np.take_along_axis(far, best, 0).argsort(0, kind="stable"), 0)
    best = np.concatenate([best, np.repeat(best[:1], GROUP - count, 0)])  # a small cube has few others
    return corners[:, None] + shifts[best.T]
