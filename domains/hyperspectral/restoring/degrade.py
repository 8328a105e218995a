"""What spoils a clean cube: the field's kinds of noise, and coarser pixels. Values are in 0..1, cubes (b, rows, cols).

Everything is a function of the generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared_backbones.errors import unknown

Cube = Float[np.ndarray, "b rows cols"]
STRUCTURED = 1 / 3  # of the bands have stripes, dead lines or impulses
STRIPES, DEAD = (0.05, 0.15), (0.05, 0.15)  # share of the columns of such a band
STRIPE = 0.25  # largest offset of a stripe
IMPULSES = (0.1, 0.3)  # share of the pixels of such a band


def gaussian(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """White noise of one deviation in all bands."""
    return np.asarray(x + sigma * rng.standard_normal(x.shape))


def noniid(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """White noise whose deviation is another in every band, evenly from 0.2 to 1 of ``sigma``."""
    own = sigma * rng.uniform(0.2, 1.0, len(x))
    return np.asarray(x + own[:, None, None] * rng.standard_normal(x.shape))


def _some(rng: np.random.Generator, bands: int) -> list[int]:
    return [int(b) for b in rng.permutation(bands)[: max(1, round(STRUCTURED * bands))]]


def _columns(rng: np.random.Generator, cols: int, share: tuple[float, float]) -> Any:
    return rng.permutation(cols)[: max(1, round(rng.uniform(*share) * cols))]


def stripes(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """Non-iid noise, and in a third of the bands columns with an offset of their own."""
    y = noniid(x, rng, sigma)
    for b in _some(rng, len(x)):
        at = _columns(rng, x.shape[2], STRIPES)
        y[b][:, at] += rng.uniform(-STRIPE, STRIPE, len(at))
    return y


def deadlines(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """Non-iid noise, and in a third of the bands columns of zeros."""
    y = noniid(x, rng, sigma)
    for b in _some(rng, len(x)):
        y[b][:, _columns(rng, x.shape[2], DEAD)] = 0.0
    return y


def impulse(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """Non-iid noise, and in a third of the bands pixels that are 0 or 1."""
    y = noniid(x, rng, sigma)
    for b in _some(rng, len(x)):
        hit = rng.random(x.shape[1:]) < rng.uniform(*IMPULSES)
        y[b][hit] = rng.integers(0, 2, int(hit.sum()))
    return y


def mixture(x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """All of these: non-iid noise, stripes, impulses and dead lines, each in a third of the bands of its own."""
    y = impulse(x, rng, sigma)
    for b in _some(rng, len(x)):
        at = _columns(rng, x.shape[2], STRIPES)
        y[b][:, at] += rng.uniform(-STRIPE, STRIPE, len(at))
    for b in _some(rng, len(x)):
        y[b][:, _columns(rng, x.shape[2], DEAD)] = 0.0
    return y


NOISES: dict[str, Callable[[Cube, np.random.Generator, float], Cube]] = {
    "gaussian": gaussian,
    "noniid": noniid,
    "stripes": stripes,
    "deadlines": deadlines,
    "impulse": impulse,
    "mixture": mixture,
}


def noisy(kind: str, x: Cube, rng: np.random.Generator, sigma: float) -> Cube:
    """A cube with noise of a named kind; ``sigma`` in the unit of the cube. Raises BadRequest for other names."""
    if kind not in NOISES:
        raise unknown("noise", kind, NOISES)
    return NOISES[kind](x, rng, sigma)


def coarser(x: Float[Tensor, "*n rows cols"], scale: int) -> Float[Tensor, "*n r c"]:
    """Bicubic with antialiasing (a = -0.5, as Pillow does it); sizes must be multiples of ``scale``."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    small = F.interpolate(flat, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    return small.reshape(*x.shape[:-2], *small.shape[-2:])


def finer(x: Float[Tensor, "*n r c"], scale: int) -> Float[Tensor, "*n rows cols"]:
    """Bicubic interpolation (a = -0.5)."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    large = F.interpolate(flat, scale_factor=float(scale), mode="bicubic", antialias=True, align_corners=False)
    return large.reshape(*x.shape[:-2], *large.shape[-2:])


def eight_bit(x: Any) -> Any:
    """Values in 0..1 as an 8-bit image holds them; of an array or a tensor."""
    return (x.clip(0, 1) * 255).round() / 255


def coarse_and_back(x: Cube, scale: int, rounded: bool = False) -> Cube:
    """What a sensor of ``scale`` times larger pixels saw, interpolated back to the same lattice.

    ``rounded``: the coarse pixels are those of an 8-bit image.
    """
    coarse = coarser(torch.from_numpy(np.ascontiguousarray(x)), scale)
    return np.asarray(finer(eight_bit(coarse) if rounded else coarse, scale).numpy())
