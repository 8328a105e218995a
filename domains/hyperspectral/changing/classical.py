"""Change without labels: change vectors, spectral angles, multivariate alteration detection.

Shapes: n pixels, b bands, k canonical variates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import chi2

ROUNDS, SETTLED = 30, 1e-3
RIDGE = 1e-9  # of the mean variance
LARGEST = 1e6  # of a sum of squares


@dataclass(frozen=True)
class Linear:
    """Second-date values on the first date's scale: y * gain + offset, from means and deviations of both."""

    gain: Float[np.ndarray, "b"]
    offset: Float[np.ndarray, "b"]
    std: Float[np.ndarray, "b"]  # of the first date


def normalised(x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"]) -> Linear:
    """Relative radiometric normalisation by mean and deviation of each band."""
    std, other = np.maximum(x.std(0), 1e-12), np.maximum(y.std(0), 1e-12)
    gain = std / other
    return Linear(gain, x.mean(0) - gain * y.mean(0), std)


def change_vectors(x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"], of: Linear) -> Float[np.ndarray, "n"]:
    """Length of the change vector, per band and in deviations of the first date, after normalisation."""
    return np.sqrt((((y * of.gain + of.offset) - x) ** 2 / of.std**2).mean(1))


def angles(x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n"]:
    """Angle between the spectra of both dates (rad); 0 where one of them is zero."""
    length = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    cosine = np.divide((x * y).sum(1), length, out=np.ones(len(x)), where=length > 0)
    return np.arccos(np.clip(cosine, -1, 1))


@dataclass(frozen=True)
class Mad:
    """Canonical variates of two dates: a (x - mean_x) and b (y - mean_y) have variance 1 and correlation ``rho``."""

    a: Float[np.ndarray, "k b"]
    b: Float[np.ndarray, "k b"]
    mean_x: Float[np.ndarray, "b"]
    mean_y: Float[np.ndarray, "b"]
    rho: Float[np.ndarray, "k"]

    def squares(self, x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"]) -> Float[np.ndarray, "n"]:
        """Sum over variates of the squared difference over its variance 2 (1 - rho): chi-square without change."""
        mad = (x - self.mean_x) @ self.a.T - (y - self.mean_y) @ self.b.T
        return np.minimum((mad**2 / np.maximum(2 * (1 - self.rho), 1e-6)).sum(1), LARGEST)


def mad(x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"], weight: Any = None, components: int = 16) -> Mad:
    """Canonical correlations of both dates, of weighted pixels, among so many principal components of each: the
    covariances of many bands could not be inverted.

    "Multivariate Alteration Detection (MAD) and MAF Postprocessing in Multispectral, Bitemporal Image Data" (Nielsen et
    al. 1998).
    """
    w = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    w = w / w.sum()
    mx, my = w @ x, w @ y
    px, py = (_principal(v - m, w, components) for v, m in ((x, mx), (y, my)))
    u, v = (x - mx) @ px.T, (y - my) @ py.T
    suv = (u * w[:, None]).T @ v
    wu, wv = (_inverse_root((t * w[:, None]).T @ t) for t in (u, v))
    left, rho, right = np.linalg.svd(wu @ suv @ wv)
    k = len(rho)
    return Mad(left.T[:k] @ wu @ px, right[:k] @ wv @ py, mx, my, np.clip(rho, 0.0, 1.0))


def _principal(z: Float[np.ndarray, "n b"], w: Float[np.ndarray, "n"], count: int) -> Float[np.ndarray, "k b"]:
    """Principal directions with any variance to speak of, the largest first."""
    values, vectors = np.linalg.eigh((z * w[:, None]).T @ z)
    kept = values[::-1] > 1e-10 * max(float(values[-1]), 1e-300)
    return vectors[:, ::-1][:, kept][:, :count].T


def _inverse_root(s: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    values, vectors = np.linalg.eigh(s)
    values = values + RIDGE * max(float(values.mean()), 1e-300)
    return np.asarray((vectors / np.sqrt(np.maximum(values, 1e-300))) @ vectors.T)


def reweighted_mad(x: Float[np.ndarray, "n b"], y: Float[np.ndarray, "n b"], components: int = 16) -> Mad:
    """A pixel weighs as much as it is probable that it did not change, until the correlations settle.

    "The Regularized Iteratively Reweighted MAD Method for Change Detection in Multi- and Hyperspectral Data" (Nielsen
    2007).
    """
    found = mad(x, y, None, components)
    for _ in range(ROUNDS):
        weight = chi2.sf(found.squares(x, y), len(found.rho))
        if weight.sum() < 2 * x.shape[1]:
            return found  # hardly anything is left that did not change
        again = mad(x, y, weight, components)
        settled = len(again.rho) == len(found.rho) and np.abs(again.rho - found.rho).max() < SETTLED
        found = again
        if settled:
            break
    return found
