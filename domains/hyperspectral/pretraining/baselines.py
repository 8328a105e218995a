"""What a sceptic would put where values are hidden. Settings are chosen on validation.

Shapes: b bands, n pixels, k principal spectra. Values are in deviations of each band, so the training mean is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

Cube = Float[np.ndarray, "b rows cols"]
Mask = Bool[np.ndarray, "b rows cols"]
Window = tuple[Float[np.ndarray, "_ _ _"], Bool[np.ndarray, "_ _ _"], Bool[np.ndarray, "_ _ _"]]  # sizes differ
Method = Callable[[Cube, Mask], Cube]  # values, which of them can be seen -> values everywhere
RANKS = (3, 8, 16, 32)
WIDTHS = (0.7, 1.5, 3.0)  # px
LEAST = 1e-6  # of a Gaussian's weight: less is no neighbour


def patterns(visible: Bool[np.ndarray, "b n"]) -> Iterator[tuple[Bool[np.ndarray, "b"], Bool[np.ndarray, "n"]]]:
    """Every set of bands that some pixel shows, and those pixels."""
    _, inverse = np.unique(np.packbits(visible, axis=0), axis=1, return_inverse=True)
    inverse = inverse.ravel()
    for i in range(int(inverse.max()) + 1):
        at = inverse == i
        yield visible[:, int(np.argmax(at))], at


def along_spectrum(nm: Sequence[float]) -> Method:
    """Linear interpolation in wavelength between the bands that a pixel shows; the nearest one beyond them."""
    place = np.array(nm)

    def fill(z: Cube, visible: Mask) -> Cube:
        flat, out = z.reshape(len(z), -1), np.zeros((len(z), z[0].size))
        for shown, at in patterns(visible.reshape(len(z), -1)):
            if shown.any():
                order = np.flatnonzero(shown)[np.argsort(place[shown], kind="stable")]
                weight = np.stack([np.interp(place, place[order], row) for row in np.eye(len(order))], 1)  # (b, shown)
                out[:, at] = weight @ flat[order][:, at]
        return out.reshape(z.shape)

    return fill


@dataclass(frozen=True)
class Principal:
    """Principal spectra of training pixels about their mean, the variance along each, and what is left per band."""

    mean: Float[np.ndarray, "b"]
    basis: Float[np.ndarray, "k b"]
    variance: Float[np.ndarray, "k"]
    rest: float


def principal(z: Float[np.ndarray, "n b"], rank: int) -> Principal:
    """Of standardised training spectra, ``rank`` of them at most."""
    mean = z.mean(0)
    values, vectors = np.linalg.eigh(np.cov((z - mean).T))
    rank = min(rank, len(values) - 1)
    rest = max(float(values[: len(values) - rank].mean()), 1e-6)
    return Principal(mean, vectors[:, ::-1][:, :rank].T, np.maximum(values[::-1][:rank] - rest, 1e-9), rest)


def low_rank(p: Principal) -> Method:
    """The expected spectrum given the bands that a pixel shows, all of it Gaussian with these principal spectra."""

    def fill(z: Cube, visible: Mask) -> Cube:
        flat, out = z.reshape(len(z), -1), np.repeat(p.mean[:, None], z[0].size, 1)
        for shown, at in patterns(visible.reshape(len(z), -1)):
            if shown.any():
                b = p.basis[:, shown]
                lhs = b @ b.T / p.rest + np.diag(1 / p.variance)
                share = np.linalg.solve(lhs, b @ (flat[shown][:, at] - p.mean[shown, None]) / p.rest)
                out[:, at] += p.basis.T @ share
        return out.reshape(z.shape)

    return fill


def neighbours(width: float) -> Method:
    """The Gaussian mean of what pixels around show of the same band; the training mean where none does."""

    def fill(z: Cube, visible: Mask) -> Cube:
        around = (0.0, width, width)
        share = gaussian_filter(visible.astype(np.float64), around, mode="constant")
        mean = gaussian_filter(np.where(visible, z, 0.0).astype(np.float64), around, mode="constant")
        return np.where(share > LEAST, mean / np.maximum(share, LEAST), 0.0)

    return fill


def low_rank_around(p: Principal, width: float) -> Method:
    """The low-rank guess of each pixel; for pixels that show nothing, the Gaussian mean of those around."""
    own, around = low_rank(p), neighbours(width)

    def fill(z: Cube, visible: Mask) -> Cube:
        shown = np.broadcast_to(visible.any(0), z.shape)
        made = own(z, visible)
        return np.where(shown, made, around(np.where(shown, made, 0.0), shown))

    return fill


def best(candidates: Sequence[Method], held: Sequence[Window]) -> Method:
    """The method with the least squared error at hidden values of (values, visible, hidden) windows."""

    def cost(method: Method) -> float:
        return float(sum(np.square((method(z, v) - z)[h]).sum() for z, v, h in held))

    return min(candidates, key=cost)
