"""Intervals that follow the errors: what forecasts missed widens the next intervals, what they covered narrows them.

Each step ahead and series has a factor per level on its conformal offsets. Once the value of a step is known, every
forecast made for it says by how much its interval would have had to be stretched; the factor moves in its logarithm by
rate x (outside - (1 - level)), as in "Adaptive Conformal Inference Under Distribution Shift" (Gibbs and Candes 2021),
here against the factor of the moment. An interval at origin t rests on values before t alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from .config import LEVELS, QUANTILES

RATES = (0.005, 0.01, 0.02)  # faster ones chase noise; intervals that never move miss every drift
MOST = 60_000_000  # numbers that the errors of a horizon of origins may take; a panel beyond has fixed intervals
_NARROWEST = 0.05  # of an interval's width, on either side: a side of width 0 could not be stretched


def opened(offsets: Float[np.ndarray, "Q H V"]) -> Float[np.ndarray, "Q H V"]:
    """Offsets that leave some room on both sides, so that a factor can stretch either."""
    out = offsets.copy()
    for low, high in LEVELS.values():
        room = _NARROWEST * (offsets[high] - offsets[low])
        out[low], out[high] = np.minimum(offsets[low], -room), np.maximum(offsets[high], room)
    return out


def can_track(origins: Int[np.ndarray, "n"], horizon: int, series: int) -> bool:
    """Whether the origins follow one another, and the errors of a horizon of them can be held."""
    return len(origins) > 0 and bool((np.diff(origins) == 1).all()) and horizon * horizon * series <= MOST


@dataclass
class Tracker:
    """The state of tracking: factors, and the errors of the last H origins in units of the interval's scale.

    ``steps``: which steps ahead (counted from 0) the offsets are for.
    """

    offsets: Float[np.ndarray, "Q S V"]
    rate: float
    horizon: int
    steps: Int[np.ndarray, "S"]
    factors: Float[np.ndarray, "Z S V"] = field(init=False)  # logarithms, one per level
    errors: Float[np.ndarray, "H S V"] = field(init=False)  # by origin modulo H; NaN: none

    def __post_init__(self) -> None:
        self.offsets = opened(self.offsets)
        self.factors = np.zeros((len(LEVELS), *self.offsets.shape[1:]))
        self.errors = np.full((self.horizon, *self.offsets.shape[1:]), np.nan, np.float32)

    def keep(self, origin: int, errors: Float[np.ndarray, "S V"]) -> None:
        """Remember what was missed from this origin on; it is read only as its steps become known."""
        self.errors[origin % self.horizon] = errors

    def advance(self, origin: int) -> None:
        """Take in the value of step ``origin`` - 1, for which the H origins before it had a forecast."""
        error = self.errors[(origin - 1 - self.steps) % self.horizon, np.arange(len(self.steps))]
        known = ~np.isnan(error)
        for i, (level, (low, high)) in enumerate(LEVELS.items()):
            side = np.where(error > 0, self.offsets[high], self.offsets[low])
            stretched = side * np.exp(self.factors[i])
            outside = np.abs(np.where(known, error, 0.0)) > np.abs(stretched)
            self.factors[i] += np.where(known, self.rate * (outside - (1 - level / 100)), 0.0)

    def now(self) -> Float[np.ndarray, "Q S V"]:
        """The stretched offsets, never crossing."""
        out = np.zeros_like(self.offsets)
        for factor, (low, high) in zip(np.exp(self.factors), LEVELS.values(), strict=True):
            out[low], out[high] = self.offsets[low] * factor, self.offsets[high] * factor
        (low_80, high_80), (low_95, high_95) = LEVELS[80], LEVELS[95]
        out[low_95], out[high_95] = np.minimum(out[low_95], out[low_80]), np.maximum(out[high_95], out[high_80])
        return out

    def through(
        self, origins: Int[np.ndarray, "B"], errors: Float[np.ndarray, "B S V"], first: int
    ) -> Float[np.ndarray, "Q B S V"]:
        """Offsets at each of these consecutive origins; before ``first`` errors are remembered and nothing moves."""
        found = np.empty((len(QUANTILES), *errors.shape))
        for i, origin in enumerate(origins.tolist()):
            if origin >= first:
                self.advance(origin)
            found[:, i] = self.now()
            self.keep(origin, errors[i])
        return found
