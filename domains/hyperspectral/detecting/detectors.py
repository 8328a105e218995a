"""Classical detectors over a Gaussian background, and the implants that they are tried on. Spectra are rows (n, b)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter1d

SHRINKAGE = 1e-4  # of the covariance towards a multiple of the identity: keeps its inverse finite
Spectra = Float[np.ndarray, "n b"]


@dataclass(frozen=True)
class Background:
    """Mean (b) and whitening (b, b) of a background: ((x - mean) @ whiten) has covariance 1."""

    mean: Float[np.ndarray, "b"]
    whiten: Float[np.ndarray, "b b"]

    def white(self, x: Spectra) -> Spectra:
        return (x - self.mean) @ self.whiten


def background(x: Spectra) -> Background:
    """From spectra of a background."""
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / max(1, len(x) - 1)
    values, vectors = np.linalg.eigh(covariance)
    values = (1 - SHRINKAGE) * np.maximum(values, 0) + SHRINKAGE * max(values.mean(), 1e-20)
    return Background(mean, (vectors / np.sqrt(values)) @ vectors.T)


def rx(x: Spectra, b: Background) -> Float[np.ndarray, "n"]:
    """Squared Mahalanobis distance from the background (Reed and Yu 1990)."""
    return np.asarray((b.white(x) ** 2).sum(1))


def matched_filter(x: Spectra, b: Background, target: Float[np.ndarray, "b"]) -> Float[np.ndarray, "n"]:
    """The target's share of a pixel, by whitened least squares: 1 for the target itself, 0 for the mean background."""
    s = b.white(target[None])[0]
    return np.asarray(b.white(x) @ s / (s @ s))


def ace(x: Spectra, b: Background, target: Float[np.ndarray, "b"]) -> Float[np.ndarray, "n"]:
    """Adaptive cosine estimator: the whitened cosine to the target, squared, negative where it points away."""
    s, w = b.white(target[None])[0], b.white(x)
    cosine = w @ s / np.maximum(np.linalg.norm(w, axis=1) * np.linalg.norm(s), 1e-12)
    return np.asarray(np.sign(cosine) * cosine**2)


def strange(rng: np.random.Generator, x: Spectra) -> Float[np.ndarray, "b"]:
    """A smooth random spectrum of a brightness that occurs in x: what no training pixel shows."""
    b = x.shape[1]
    curve = gaussian_filter1d(rng.standard_normal(b), max(1.0, b * rng.uniform(0.04, 0.2)), mode="nearest")
    curve = (curve - curve.mean()) / max(curve.std(), 1e-9)
    level = np.abs(x[rng.integers(len(x))]).mean()
    return np.asarray(level * np.exp(0.5 * curve))


def implanted(
    cube: Float[np.ndarray, "b rows cols"],
    target: Float[np.ndarray, "b"] | None,
    rng: np.random.Generator,
    share: float,
    fill: tuple[float, float],
    live: Bool[np.ndarray, "rows cols"],
    pool: Spectra,
) -> tuple[Any, Any]:
    """The cube with targets mixed into some measured pixels, and where (rows, cols): x becomes (1 - f) x + f t.

    At least one pixel gets one. Without a target every implant is a strange spectrum of its own.
    """
    at = np.flatnonzero(live.ravel())
    if not len(at):
        return cube, np.zeros(live.shape, dtype=bool)
    chosen = rng.choice(at, max(1, round(share * len(at))), replace=False)
    flat = cube.reshape(len(cube), -1).astype(np.float64)
    for i in chosen:
        f = rng.uniform(*fill)
        flat[:, i] = (1 - f) * flat[:, i] + f * (strange(rng, pool) if target is None else target)
    where = np.zeros(live.size, dtype=bool)
    where[chosen] = True
    return flat.reshape(cube.shape).astype(np.float32), where.reshape(live.shape)
