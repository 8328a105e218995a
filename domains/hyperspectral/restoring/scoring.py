"""Evidence of a restored cube, and the metrics that are read from it. Values of cubes range over 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

from ...task import Evidence, MetricFact

SIDE, SIGMA = 7, 1.5  # of the Gaussian window of SSIM: 11 px, as usual, are too much of a block
C1, C2 = 0.01**2, 0.03**2

METRIC_FACTS: Mapping[str, MetricFact] = {
    "psnr": MetricFact("dB", "higher", "mean over bands of 10 log10(1 / mean squared error); the range is 1"),
    "ssim": MetricFact(
        "1", "higher", f"structural similarity, {SIDE} px Gaussian windows inside blocks, mean over bands"
    ),
    "sam": MetricFact("rad", "lower", "mean spectral angle; pixels that are zero in all bands are left out"),
    "rmse": MetricFact("1", "lower", "root mean squared error over all values; the range is 1"),
}

Cube = Float[np.ndarray, "b rows cols"]


def _window() -> Float[np.ndarray, "s"]:
    w = np.exp(-0.5 * ((np.arange(SIDE) - SIDE // 2) / SIGMA) ** 2)
    return np.asarray(w / w.sum())


def ssim_map(x: Cube, y: Cube) -> Float[np.ndarray, "b r c"]:
    """Structural similarity of every window that lies inside: "Image Quality Assessment" (Wang et al. 2004)."""
    w, edge = _window(), SIDE // 2

    def mean(v: Cube) -> Any:
        full = correlate1d(correlate1d(v, w, axis=1, mode="constant"), w, axis=2, mode="constant")
        return full[:, edge : v.shape[1] - edge, edge : v.shape[2] - edge]

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return (2 * mx * my + C1) * (2 * vxy + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))


def spectral_angles(x: Cube, y: Cube) -> Float[np.ndarray, "rows cols"]:
    """Angle in rad between the spectra of two cubes; NaN where one of them is zero."""
    length = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(length > 0, np.arccos(np.clip((x * y).sum(0) / length, -1, 1)), np.nan))


def row(found: Cube, clean: Cube, seen: Any) -> dict[str, Any]:
    """Sums of one block: squared error and count by band, SSIM and its windows, angles and their pixels.

    ``seen``: True where the clean value was measured; elsewhere nothing is scored (SSIM: both are set to 0).
    """
    f, c = (np.where(seen, v, 0.0).astype(np.float64) for v in (found, clean))
    similar = ssim_map(f, c)
    angle = spectral_angles(f, c)
    return {
        "squares": ((f - c) ** 2).sum((1, 2)),
        "values": seen.sum((1, 2)).astype(np.float64),
        "ssim": float(similar.sum()),
        "windows": float(similar.size),
        "angle": float(np.nansum(angle)),
        "angles": float(np.isfinite(angle).sum()),
    }


def evidence_of(rows: Mapping[int, Mapping[str, Any]]) -> Evidence:
    """Rows by block number."""
    units = sorted(rows)
    columns = {k: np.stack([np.asarray(rows[u][k], dtype=np.float64) for u in units]) for k in rows[units[0]]}
    return Evidence(np.array(units, dtype=np.int64), columns)


def scores(evidence: Evidence) -> dict[str, float]:
    """Metrics of summed evidence; NaN without any value."""
    squares, values = np.asarray(evidence.sum("squares")), np.asarray(evidence.sum("values"))
    with np.errstate(invalid="ignore", divide="ignore"):
        by_band = squares / values
        return {
            "psnr": float(np.nanmean(-10 * np.log10(np.maximum(by_band, 1e-12)))),
            "ssim": float(evidence.sum("ssim") / np.float64(evidence.sum("windows"))),
            "sam": float(evidence.sum("angle") / np.float64(evidence.sum("angles"))),
            "rmse": float(np.sqrt(squares.sum() / values.sum())),
        }
