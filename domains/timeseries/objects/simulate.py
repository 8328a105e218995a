"""Simulated light curves of three kinds of variable stars, observed at night in two bands.

A sawtooth pulsator rises fast and falls slowly, a sinusoidal one has a short period and a small amplitude, an
eclipsing binary is flat between two dips. Magnitudes with errors, times in days; gaps by day and by weather.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from .data import Raw, Read

KINDS = ("eclipsing", "sawtooth", "sinusoidal")
BANDS = ("g", "r")


def _shape(kind: str, phase: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Magnitude offset of unit size: positive is fainter."""
    if kind == "sinusoidal":
        return 0.5 * np.cos(2 * np.pi * phase) + 0.08 * np.cos(4 * np.pi * phase)
    if kind == "sawtooth":
        rise = 0.15
        return np.where(phase < rise, 0.5 - phase / rise, -0.5 + (phase - rise) / (1 - rise))
    dip = lambda at, depth: depth * np.exp(-0.5 * ((phase - at) / 0.04) ** 2)  # noqa: E731
    return dip(0.25, 1.0) + dip(0.75, 0.6)


def simulated(options: Mapping[str, int]) -> Read:
    """``objects`` stars in turn of each kind, some ``visits`` nights each."""
    count, visits = options.get("objects", 90), options.get("visits", 30)
    random = np.random.default_rng(options.get("seed", 0))
    found = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        period = {"sawtooth": random.uniform(0.45, 0.8), "sinusoidal": random.uniform(0.25, 0.45)}.get(
            kind, random.uniform(0.4, 1.0)
        )
        size = {"sawtooth": random.uniform(0.6, 1.1), "sinusoidal": random.uniform(0.3, 0.5)}.get(
            kind, random.uniform(0.3, 0.9)
        )
        level, start = random.uniform(15, 19), random.uniform(0, 1)
        rows = []
        for _ in range(max(3, int(random.normal(visits, visits / 6)))):
            night = random.integers(0, 60) + random.uniform(0.8, 1.2)
            for b, (gain, colour) in enumerate(((1.0, 0.0), (0.75, -0.3))):
                t = night + 0.002 * b
                error = 0.02 * 10 ** (0.15 * (level - 17))
                y = level + colour + gain * size * _shape(kind, np.array([(t / period + start) % 1.0]))[0]
                rows.append((t, y + random.normal() * error, error, b))
        table = np.array(rows)
        found.append(Raw(f"star_{i}", table[np.lexsort((table[:, 3], table[:, 0]))], kind))
    return Read(False, BANDS, found, {"magnitudes": True})
