"""Periods of light curves: Lomb-Scargle over all bands at once, then the candidates judged by more harmonics.

"The generalised Lomb-Scargle periodogram" (Zechmeister and Kuerster 2009), a mean of its own for every band as in
"Periodograms for Multiband Astronomical Time Series" (VanderPlas and Ivezic 2015).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Complex, Float, Int64

FINENESS = 5  # frequencies per peak width
CANDIDATES = 6
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


def _turns(x: Float[np.ndarray, "n m"]) -> Complex[np.ndarray, "n m"]:
    """exp(2 pi i x), the angle taken in double precision."""
    return np.exp(2j * np.pi * (x - np.floor(x))).astype(np.complex64)


def trig_sums(
    t: Float[np.ndarray, "n"], weights: Float[np.ndarray, "s n"], first: float, step: float, count: int, times: int = 1
) -> Complex[np.ndarray, "s K"]:
    """sum_j w_sj exp(2 pi i f_k t_j) on a regular grid of frequencies: products of a coarse and a fine grid."""
    fine = int(np.ceil(np.sqrt(count)))
    coarse = -(-count // fine)
    outer = _turns(times * t[:, None] * (first + step * fine * np.arange(coarse)))
    inner = _turns(times * t[:, None] * (step * np.arange(fine)))
    found = [(outer * w.astype(np.float32)[:, None]).T @ inner for w in weights]
    return np.stack(found).reshape(len(weights), -1)[:, :count]


def weights_of(values: Float[np.ndarray, "n"], errors: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """1/variance with a floor of a tenth of the scatter; equal where no error is known."""
    floor = max(0.1 * float(values.std()), 1e-6)
    known = np.isfinite(errors)
    return 1 / (np.where(known, errors, np.median(errors[known]) if known.any() else floor) ** 2 + floor**2)


def power(curve: Float[np.ndarray, "n 4"], first: float, step: float, count: int) -> Float[np.ndarray, "K"]:
    """Share of the variance that one sinusoid per band explains, at each frequency: 0 .. 1."""
    t = curve[:, 0] - curve[:, 0].mean()
    gain, total = np.zeros(count), 0.0
    for band in np.unique(curve[:, 3]):
        mine = curve[:, 3] == band
        if mine.sum() < 4:
            continue
        y, w = curve[mine, 1], weights_of(curve[mine, 1], curve[mine, 2])
        whole = w.sum()
        w = w / whole
        y = y - w @ y
        once = trig_sums(t[mine], np.stack([w, w * y]), first, step, count)
        twice = trig_sums(t[mine], w[None], first, step, count, times=2)[0]
        c, s, yc, ys = once[0].real, once[0].imag, once[1].real, once[1].imag
        cc, ss, cs = (1 + twice.real) / 2 - c**2, (1 - twice.real) / 2 - s**2, twice.imag / 2 - c * s
        det = np.maximum(cc * ss - cs**2, 1e-9)
        gain += whole * (ss * yc**2 + cc * ys**2 - 2 * cs * yc * ys) / det
        total += whole * float(w @ y**2)
    return gain / total if total > 0 else gain


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
        angle = 2 * np.pi * np.mod(frequencies[:, None] * t[mine], 1.0)
        columns = [np.ones_like(angle)]
        for k in range(1, harmonics + 1):
            columns += [np.cos(k * angle), np.sin(k * angle)]
        design = np.stack(columns, -1)
        normal = np.einsum("mnp,n,mnq->mpq", design, w, design)
        normal += 1e-4 * w.sum() * np.eye(normal.shape[-1]) * (np.arange(normal.shape[-1]) > 0)
        right = np.einsum("mnp,n->mp", design, w * y)
        found = np.linalg.solve(normal, right[..., None])[..., 0]
        residual = y - np.einsum("mnp,mp->mn", design, found)
        left += (w * residual**2).sum(1)
        total += float(w @ (y - (w @ y) / w.sum()) ** 2)
        coefficients[int(band)] = found
    return (left / total if total > 0 else np.ones(len(frequencies))), coefficients


def peaks(found: Float[np.ndarray, "K"], count: int) -> Int64[np.ndarray, "m"]:
    """Places of the highest local maxima, best first."""
    inner = np.flatnonzero((found[1:-1] >= found[:-2]) & (found[1:-1] >= found[2:])) + 1
    if not len(inner):
        inner = np.array([int(found.argmax())])
    return inner[np.argsort(-found[inner], kind="stable")][:count].astype(np.int64)


def best_period(curve: Float[np.ndarray, "n 4"], shortest: float, longest: float) -> dict[str, Any]:
    """Period by Lomb-Scargle, period by the Fourier fit of its best candidates, and how much each explains.

    NaN where there are fewer than 8 observations or no span.
    """
    span = float(np.ptp(curve[:, 0]))
    if len(curve) < 8 or span <= shortest:
        return {"period": np.nan, "lomb_scargle": np.nan, "power": np.nan, "explained": np.nan}
    first, step, count = frequency_grid(span, shortest, longest)
    found = power(curve, first, step, count)
    top = peaks(found, CANDIDATES)
    fine = first + step * (top[:, None] + np.linspace(-0.6, 0.6, 7)).ravel()
    fine = np.clip(fine, first / 2, None)
    left, _ = fourier_fit(curve, fine, HARMONICS)
    best = int(left.argmin())
    return {
        "period": 1 / float(fine[best]), "lomb_scargle": 1 / (first + step * float(top[0])),
        "power": float(found[top[0]]), "explained": 1 - float(left[best]),
    }  # fmt: skip
