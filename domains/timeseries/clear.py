"""When is a difference between two forecasters clear? Over blocks of windows that hardly overlap, not over windows.

Neighbouring windows share most of their steps: a validation part of two thousand windows may hold three independent
ones, and a model that is picked for the third digit of its validation error is mostly picked by chance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

ERRORS = 2.0  # standard errors that a departure from the plain window ridge must show on validation


def standard_error(excess: Float[np.ndarray, "units"]) -> float:
    """Standard error of the sum of paired differences, one per unit; infinite for fewer than two units."""
    return float(np.sqrt(len(excess)) * excess.std(ddof=1)) if len(excess) > 1 else float("inf")


def clearly_less(new: Float[np.ndarray, "units"], old: Float[np.ndarray, "units"]) -> bool:
    """Whether the summed loss of ``new`` lies ERRORS standard errors below that of ``old``."""
    gain = old - new
    return bool(gain.sum() > 0 and gain.sum() >= ERRORS * standard_error(gain))
