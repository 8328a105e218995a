"""Scenes of known mixtures: the test bed of unmixing.

x_n = light_n * sum_k a_kn (e_k with the field's own small variety) + bilinear part + noise, with a_n on the simplex.
"Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey" (Zhu 2017) names the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from shared_backbones.errors import BadRequest

from ..bands import Bands
from ..data import ArrayScene
from ..simulate import UTM32, asphalt, grid, leaf, sensor, smooth_field, soil, straw, water
from .endmembers import angles

Curve = Float[np.ndarray, "bands"]
LEAST_ANGLE = 0.12  # rad between any two endmembers of a scene: below, no method could tell them apart under noise
POOL: tuple[tuple[str, Callable[[Curve, Float[np.ndarray, "4"]], Curve]], ...] = (
    ("vegetation", lambda nm, v: leaf(nm, 0.6 + 0.3 * v[0], 0.6 + 0.4 * v[1], 0.3 + 0.2 * v[2], 708 + 12 * v[3])),
    ("pale soil", lambda nm, v: soil(nm, 0.35 + 0.15 * v[0], 0.2 + 0.4 * v[1], 0.2, 0.2 * v[2])),
    ("iron-rich soil", lambda nm, v: soil(nm, 0.25 + 0.15 * v[0], 0.3, 0.8 + 0.6 * v[1], 0.3 * v[2])),
    ("straw", lambda nm, v: (0.6 + 0.5 * v[0]) * straw(nm)),
    ("water", lambda nm, v: (0.8 + 0.9 * v[0]) * water(nm)),
    ("asphalt", lambda nm, v: (0.7 + 0.6 * v[0]) * asphalt(nm)),
)


@dataclass(frozen=True)
class Mixed:
    """A scene with its truth: endmember spectra in the scene's unit, and abundances that sum to one."""

    scene: ArrayScene
    endmembers: Float[np.ndarray, "p bands"]
    abundances: Float[np.ndarray, "p rows cols"]
    names: tuple[str, ...]


def simulate_mixture(
    seed: int = 0,
    *,
    shape: tuple[int, int] = (64, 64),
    bands: int = 60,
    endmembers: int = 4,
    purity: float = 4.0,
    patch: float = 5.0,
    light: float = 0.2,
    variety: float = 0.03,
    bilinear: float = 0.0,
    snr_db: float = 30.0,
) -> Mixed:
    """A scene of mixed pixels, float32 reflectance.

    purity: sharpness of the materials' borders (0: all mixed evenly). patch: size of their patches in pixels.
    light: deviation of the smooth illumination around 1. variety: smooth change of every endmember's spectrum, as a
    share. bilinear: strength of the light that met two materials. snr_db: signal to noise over the whole scene.
    """
    if not 2 <= endmembers <= len(POOL):
        raise BadRequest(f"simulated.endmembers must be 2 to {len(POOL)}, got {endmembers}")
    rng = np.random.default_rng(seed)
    description: Bands = sensor(bands)
    nm = np.array(description.wavelength_nm)
    names, spectra = _draw(rng, nm, endmembers)
    score = purity * np.stack([smooth_field(rng, shape, patch) for _ in names])
    shares = np.exp(score - score.max(0))
    shares /= shares.sum(0)
    place = (nm - nm.mean()) / np.ptp(nm)
    cube = np.zeros((bands, *shape))
    for k, spectrum in enumerate(spectra):
        tilt, lift = variety * smooth_field(rng, shape, 8.0), variety * smooth_field(rng, shape, 8.0)
        own = spectrum[:, None, None] * (1 + lift + 2 * tilt * place[:, None, None])
        cube += shares[k] * own
    for i in range(endmembers):
        for j in range(i):
            cube += bilinear * shares[i] * shares[j] * (spectra[i] * spectra[j])[:, None, None]
    cube *= np.clip(1 + light * smooth_field(rng, shape, 4.0), 0.2, 1.8)
    sigma = np.sqrt((cube**2).mean() / 10 ** (snr_db / 10))
    noisy = (cube + sigma * rng.standard_normal(cube.shape)).astype(np.float32)
    plain = Bands(
        description.wavelength_nm,
        description.fwhm_nm,
        (True,) * bands,
        "reflectance",
        (1.0,) * bands,
        (0.0,) * bands,
        description.names,
    )
    scene = ArrayScene("simulated", noisy, plain, UTM32, grid(0.0), None)
    return Mixed(scene, spectra, shares, names)


def _draw(rng: np.random.Generator, nm: Curve, count: int) -> tuple[tuple[str, ...], Float[np.ndarray, "p bands"]]:
    """Materials whose spectra are at least ``LEAST_ANGLE`` apart, or of many draws the one farthest apart."""
    best: tuple[float, tuple[str, ...], Float[np.ndarray, "p bands"]] | None = None
    for _ in range(50):
        chosen = rng.permutation(len(POOL))[:count]
        spectra = np.stack([POOL[m][1](nm, rng.uniform(0, 1, 4)) for m in chosen])
        apart = float(angles(spectra, spectra)[~np.eye(count, dtype=bool)].min())
        if best is None or apart > best[0]:
            best = apart, tuple(POOL[m][0] for m in chosen), spectra
        if apart >= LEAST_ANGLE:
            break
    assert best is not None
    return best[1], best[2]
