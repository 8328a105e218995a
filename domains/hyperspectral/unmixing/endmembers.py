"""Pure spectra found in a scene: vertex component analysis, N-FINDR, and a vote of many runs.

Spectra are rows: (n, b) pixels, (p, b) endmembers. The random state is the caller's generator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from shared_backbones.errors import BadInput

Spectra = Float[np.ndarray, "n b"]
RUNS = 20  # of the vote
SHARE = 0.3  # of the pixels that each run of the vote sees
PURE = 0.02  # of a group's pixels, the nearest to the voted direction, whose median is the endmember
UNCERTAIN = 0.05  # rad: how far noise may turn the spectrum of a pixel that votes


def principal(x: Spectra, p: int) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "p b"]]:
    """Mean, and the p directions of largest variance around it."""
    mean = x.mean(0)
    centred = x - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return mean, vectors[:, ::-1][:, :p].T


def _enough(x: Spectra, p: int) -> None:
    if p < 2 or p > min(x.shape):
        raise BadInput(f"endmembers={p}: {len(x)} pixels of {x.shape[1]} bands allow 2 to {min(x.shape)}")


def vca(x: Spectra, p: int, rng: np.random.Generator) -> Int64[np.ndarray, "p"]:
    """Pixels at the corners of the data: "Vertex Component Analysis" (Nascimento and Dias 2005).

    Each pixel is projected onto the p directions that hold most energy and scaled onto a plane, which takes its
    brightness away; then the pixel farthest along a random direction orthogonal to those found so far is taken.
    """
    _enough(x, p)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    basis = vectors[:, values.argsort()[::-1][:p]]
    y = x @ basis
    along = y @ y.mean(0)
    y = y / np.where(np.abs(along) > 1e-12, along, 1e-12)[:, None]
    found = np.zeros((p, p))
    found[0, -1] = 1.0
    at = np.zeros(p, dtype=np.int64)
    for i in range(p):
        w = rng.standard_normal(p)
        direction = w - found.T @ np.linalg.pinv(found.T) @ w
        at[i] = int(np.abs(y @ (direction / np.linalg.norm(direction))).argmax())
        if i == 0:
            found[:] = 0.0
        found[i] = y[at[i]]
    return at


def nfindr(x: Spectra, p: int, rng: np.random.Generator) -> Int64[np.ndarray, "p"]:
    """Pixels whose simplex has the largest volume: "N-FINDR" (Winter 1999), by exchange until nothing improves."""
    _enough(x, p)
    mean, axes = principal(x, p - 1)
    return _largest(np.concatenate([np.ones((len(x), 1)), (x - mean) @ axes.T], 1), p, rng)


def _largest(y: Float[np.ndarray, "n p"], p: int, rng: np.random.Generator, sweeps: int = 10) -> Any:
    """p rows of (locally) largest determinant. It is linear in one row: the cofactors of the others give all at once.

    "N-FINDR" exchanges corners one by one, from a random start.
    """
    at = rng.choice(len(y), p, replace=False).astype(np.int64)
    for _ in range(sweeps):
        before = at.copy()
        for i in range(p):
            rest = np.delete(y[at], i, 0)
            cofactors = np.array([(-1.0) ** (i + j) * np.linalg.det(np.delete(rest, j, 1)) for j in range(p)])
            volumes = np.abs(y @ cofactors)
            best = int(volumes.argmax())
            if volumes[best] > volumes[at[i]] * (1 + 1e-12):
                at[i] = best
        if np.array_equal(at, before):
            break
    return at


def unit(x: Float[np.ndarray, "*n b"]) -> Float[np.ndarray, "*n b"]:
    """Spectra of length one; a spectrum of zeros stays."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def voted(x: Spectra, p: int, rng: np.random.Generator) -> Float[np.ndarray, "p b"]:
    """Endmembers that many runs of :func:`nfindr` on parts of the pixels agree on, whatever their brightness.

    Spectra are projected onto the p directions of most energy and brought to length one. Pixels too dark for the
    noise, whose direction is uncertain, take no part. The runs' corners are grouped by angle (spherical k-means); an
    endmember is the median of the pixels nearest to its group's direction.
    """
    _enough(x, p)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    y = x @ vectors[:, values.argsort()[::-1][:p]]
    noise = max(float((x**2).sum() - (y**2).sum()), 0.0) / (len(x) * max(1, x.shape[1] - p))
    length = np.linalg.norm(y, axis=1)
    uncertain = np.sqrt(noise * p) / np.maximum(length, 1e-12)
    kept = np.flatnonzero(uncertain <= max(UNCERTAIN, float(np.median(uncertain))))
    shape = unit(y[kept])
    some = max(p, int(SHARE * len(kept)))
    corners = []
    for _ in range(RUNS):
        part = shape[rng.choice(len(kept), some, replace=False)]
        corners.append(part[_largest(part, p, rng)])
    angle = np.arccos(np.clip(shape @ _spherical(np.concatenate(corners), p, rng).T, -1, 1))
    nearest, found = angle.argmin(1), []
    for k in range(p):
        mine = np.flatnonzero(nearest == k) if (nearest == k).any() else np.arange(len(kept))
        best = mine[np.argsort(angle[mine, k])[: max(5, int(PURE * len(mine)))]]
        found.append(np.median(x[kept[best]], 0))
    return np.stack(found)


def _spherical(points: Spectra, p: int, rng: np.random.Generator, starts: int = 20) -> Float[np.ndarray, "p b"]:
    best: tuple[float, np.ndarray] | None = None
    for _ in range(starts):
        centre = _spread(points, p, rng)
        for _ in range(50):
            group = (points @ centre.T).argmax(1)
            new = unit(np.stack([points[group == k].mean(0) if (group == k).any() else centre[k] for k in range(p)]))
            if np.allclose(new, centre):
                break
            centre = new
        score = float((points @ centre.T).max(1).sum())
        if best is None or score > best[0]:
            best = score, centre
    assert best is not None
    return best[1]


def _spread(points: Spectra, p: int, rng: np.random.Generator) -> Float[np.ndarray, "p b"]:
    """Far apart starting points: each drawn by its squared distance to those chosen."""
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < p:
        away = np.maximum(1 - (points @ np.stack(chosen).T).max(1), 0) + 1e-12
        chosen.append(points[rng.choice(len(points), p=away / away.sum())])
    return np.stack(chosen)


def angles(found: Float[np.ndarray, "q b"], truth: Float[np.ndarray, "p b"]) -> Float[np.ndarray, "q p"]:
    """Spectral angles in rad between all pairs."""
    return np.arccos(np.clip(unit(found) @ unit(truth).T, -1.0, 1.0))


def matched(found: Float[np.ndarray, "q b"], truth: Float[np.ndarray, "p b"]) -> tuple[Int64[np.ndarray, "p"], Any]:
    """For every true endmember the found one that is its own, by the least sum of angles alone; and those angles."""
    from scipy.optimize import linear_sum_assignment

    table = angles(found, truth)
    rows, cols = linear_sum_assignment(table)
    order = np.empty(truth.shape[0], dtype=np.int64)
    order[cols] = rows
    return order, table[order, np.arange(len(order))]
