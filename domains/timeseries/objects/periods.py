"""Periods of light curves: Lomb-Scargle over all bands at once, then the candidates judged by more harmonics.

"The generalised Lomb-Scargle periodogram" (Zechmeister and Kuerster 2009), a mean of its own for every band as in
"Periodograms for Multiband Astronomical Time Series" (VanderPlas and Ivezic 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int64

FINENESS = 5  # frequencies per peak width
CANDIDATES = 6
SCREENED = 40  # peaks of the cheaper power that are looked at again
REACH = 3  # steps of the fine grid to either side of them
HARMONICS = 3
MOST = 400_000  # frequencies; above it the grid grows coarser


def frequency_grid(span: float, shortest: float, longest: float) -> tuple[float, float, int]:
    """(first, step, count) of the frequencies between 1/longest and 1/shortest for observations over ``span``."""
    first, last = 1 / longest, 1 / shortest
    step = 1 / (FINENESS * max(span, longest / 2))
    count = max(2, int((last - first) / step) + 1)
    if count > MOST:
        count, step = MOST, (last - first) / MOST
    return first, step, count


def _turns(x: Float[np.ndarray, "..."]) -> Complex[np.ndarray, "..."]:
    """exp(2 pi i x), the angle taken in double precision."""
    return np.asarray(np.exp(2j * np.pi * (x - np.floor(x))))


def _multiples(x: Float[np.ndarray, "n"], count: int) -> Complex[np.ndarray, "n m"]:
    """exp(2 pi i k x) for k = 0 .. count - 1: by doubling, so that few exponentials are taken."""
    out = np.empty((len(x), count), np.complex128)
    out[:, 0], size = 1.0, 1
    while size < count:
        more = min(size, count - size)
        np.multiply(out[:, :more], _turns(size * x)[:, None], out=out[:, size : size + more])
        size += more
    return out


def trig_sums(
    t: Float[np.ndarray, "n"], weights: Float[np.ndarray, "s n"], first: float, step: float, count: int, times: int = 1
) -> Complex[np.ndarray, "s K"]:
    """sum_j w_sj exp(2 pi i f_k t_j) on a regular grid of frequencies: products of a coarse and a fine grid."""
    fine = int(np.ceil(np.sqrt(count)))
    coarse = -(-count // fine)
    outer = _multiples(times * t * step * fine, coarse) * _turns(times * t * first)[:, None]
    inner = _multiples(times * t * step, fine).astype(np.complex64)
    found = np.empty((len(weights), coarse, fine), np.complex64)
    for w, out in zip(weights, found, strict=True):
        np.matmul((outer * w[:, None]).astype(np.complex64).T, inner, out=out)
    return found.reshape(len(weights), -1)[:, :count]


def weights_of(values: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """1/variance with a floor of a tenth of the scatter; equal where no error is known."""
    floor = max(0.1 * float(values.std()), 1e-6)
    known = np.isfinite(errors)
    return 1 / (np.where(known, errors, np.median(errors[known]) if known.any() else floor) ** 2 + floor**2)


def _bands(curve: Float[np.ndarray, "n 4"]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Times, values less their weighted mean, weights that sum to 1, and what they summed to, of each band."""
    t = curve[:, 0] - curve[:, 0].mean()
    for band in np.unique(curve[:, 3]):
        mine = curve[:, 3] == band
        if mine.sum() >= 4:
            y, w = curve[mine, 1], weights_of(curve[mine, 1], curve[mine, 2])
            whole = float(w.sum())
            yield t[mine], y - w @ y / whole, w / whole, whole


def _explained(once: Any, twice: Any) -> Float[np.ndarray, "*K"]:
    """Variance that a sinusoid explains, from the sums over w and w y at f, and over w at 2 f."""
    c, s, yc, ys = once[0].real, once[0].imag, once[1].real, once[1].imag
    cc, ss, cs = (1 + twice.real) / 2 - c**2, (1 - twice.real) / 2 - s**2, twice.imag / 2 - c * s
    det = np.maximum(cc * ss - cs**2, 1e-9)
    return np.asarray((ss * yc**2 + cc * ys**2 - 2 * cs * yc * ys) / det)


def power(curve: Float[np.ndarray, "n 4"], first: float, step: float, count: int) -> Float[np.ndarray, "K"]:
    """Share of the variance that one sinusoid per band explains, at each frequency: 0 .. 1."""
    gain, total = np.zeros(count), 0.0
    for t, y, w, whole in _bands(curve):
        once = trig_sums(t, np.stack([w, w * y]), first, step, count)
        gain += whole * _explained(once, trig_sums(t, w[None], first, step, count, times=2)[0])
        total += whole * float(w @ y**2)
    return gain / total if total > 0 else gain


def power_near(
    curve: Float[np.ndarray, "n 4"], middles: Float[np.ndarray, "m"], step: float, reach: int
) -> Float[np.ndarray, "m o"]:
    """The same at the frequencies that lie up to ``reach`` steps around each of ``middles``."""
    gain, total = np.zeros((len(middles), 2 * reach + 1)), 0.0
    for t, y, w, whole in _bands(curve):
        coarse, fine = _turns(middles[:, None] * t), _turns(step * np.arange(-reach, reach + 1)[:, None] * t)
        turns = coarse.astype(np.complex64)[:, None] * fine.astype(np.complex64)
        once = turns @ np.stack([w, w * y], 1).astype(np.complex64)
        gain += whole * _explained(np.moveaxis(once, -1, 0), (turns * turns) @ w.astype(np.complex64))
        total += whole * float(w @ y**2)
    return gain / total if total > 0 else gain


def screened(curve: Float[np.ndarray, "n 4"], first: float, step: float, count: int) -> Int64[np.ndarray, "m"]:
    """Places of the grid near which the power may be highest: the SCREENED best peaks of a cheaper one.

    The cheaper one is |sum w y exp|^2 per band, on every second frequency: a third of the sums, half as often. It
    equals the power where observations are spread evenly over the phase.
    """
    half = -(-count // 2)
    rough = np.zeros(half, np.float32)
    for t, y, w, whole in _bands(curve):
        found = trig_sums(t, (w * y)[None], first, 2 * step, half)[0].view(np.float32)
        found *= found
        rough += np.float32(whole) * (found[::2] + found[1::2])
    return 2 * peaks(rough, SCREENED)


def fourier_fit(
    curve: Float[np.ndarray, "n 4"], frequencies: Float[np.ndarray, "m"], harmonics: int
) -> tuple[Float[np.ndarray, "m"], dict[int, Float[np.ndarray, "m p"]]]:
    """Weighted least squares of a Fourier series per band: share of variance left, and coefficients by band.

    Coefficients: mean, then cosine and sine of each harmonic. A band with fewer than 2 harmonics + 2 observations is
    left out.
    """
    t = curve[:, 0] - curve[0, 0]
    left, total, coefficients = np.zeros(len(frequencies)), 0.0, {}
    for band in np.unique(curve[:, 3]):
        mine = curve[:, 3] == band
        if mine.sum() < 2 * harmonics + 2:
            continue
        y, w = curve[mine, 1], weights_of(curve[mine, 1], curve[mine, 2])
        turn = _turns(frequencies[:, None] * t[mine])
        design = np.ones((*turn.shape, 2 * harmonics + 1))
        now = turn
        for k in range(harmonics):
            design[..., 2 * k + 1], design[..., 2 * k + 2] = now.real, now.imag
            now = now * turn
        weighed = design.mT * w
        normal = weighed @ design
        normal += 1e-4 * w.sum() * np.eye(normal.shape[-1]) * (np.arange(normal.shape[-1]) > 0)
        found = np.linalg.solve(normal, weighed @ y[:, None])
        residual = y - (design @ found)[..., 0]
        left += (w * residual**2).sum(1)
        total += float(w @ (y - (w @ y) / w.sum()) ** 2)
        coefficients[int(band)] = found[..., 0]
    return (left / total if total > 0 else np.ones(len(frequencies))), coefficients


def peaks(found: Float[np.ndarray, "K"], count: int) -> Int64[np.ndarray, "m"]:
    """Places of the highest local maxima, best first."""
    inner = np.flatnonzero((found[1:-1] >= found[:-2]) & (found[1:-1] >= found[2:])) + 1
    if not len(inner):
        inner = np.array([int(found.argmax())])
    if len(inner) > 4 * count:
        inner = inner[found[inner] >= np.partition(found[inner], -count)[-count]]
    return inner[np.argsort(-found[inner], kind="stable")][:count].astype(np.int64)


def best_period(curve: Float[np.ndarray, "n 4"], shortest: float, longest: float) -> dict[str, Any]:
    """Period by Lomb-Scargle, period by the Fourier fit of its best candidates, and how much each explains.

    NaN where there are fewer than 8 observations or no span.
    """
    span = float(np.ptp(curve[:, 0]))
    if len(curve) < 8 or span <= shortest:
        return {"period": np.nan, "lomb_scargle": np.nan, "power": np.nan, "explained": np.nan}
    first, step, count = frequency_grid(span, shortest, longest)
    middles = screened(curve, first, step, count)
    found = power_near(curve, first + step * middles, step, REACH)
    places, once = np.unique(middles + found.argmax(1) - REACH, return_index=True)
    order = np.argsort(-found.max(1)[once], kind="stable")[:CANDIDATES]
    top = places[order]
    fine = first + step * (top[:, None] + np.linspace(-0.6, 0.6, 7)).ravel()
    fine = np.clip(fine, first / 2, None)
    left, _ = fourier_fit(curve, fine, HARMONICS)
    best = int(left.argmin())
    return {
        "period": 1 / float(fine[best]), "lomb_scargle": 1 / (first + step * float(top[0])),
        "power": float(found.max(1)[once][order[0]]), "explained": 1 - float(left[best]),
    }  # fmt: skip
