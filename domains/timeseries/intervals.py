"""Prediction intervals from the errors on validation windows, one width per step ahead and series.

Split conformal: the offsets of a quantile are the empirical quantile of the errors y - forecast on windows that were
not trained on. They are ordered and enclose 0, so quantiles never cross and the point forecast lies between.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from .config import QUANTILES

MAX_ERRORS = 20_000_000  # numbers kept while calibrating


def offsets_of(errors: Float[np.ndarray, "n H V"], known: Bool[np.ndarray, "n H V"]) -> Float[np.ndarray, "5 H V"]:
    """Offsets of QUANTILES around the point forecast from validation errors; masked places do not count.

    The finite-sample rule of split conformal prediction widens a quantile q of n errors to rank ceil((n + 1) q).
    A step and series without any error gets the widest offsets of its series, or 0 where it has none at all.
    """
    out = np.zeros((len(QUANTILES), *errors.shape[1:]))
    ordered = np.sort(np.where(known, errors, np.inf), axis=0)
    count = known.sum(0)
    for i, q in enumerate(QUANTILES):
        if q == 0.5:
            continue
        rank = np.floor((count + 1) * q) if q < 0.5 else np.ceil((count + 1) * q)
        place = np.clip(rank.astype(int) - 1, 0, np.maximum(count - 1, 0))
        chosen = np.take_along_axis(ordered, place[None], 0)[0]
        chosen = np.where(count > 0, chosen, 0.0)
        out[i] = np.minimum(chosen, 0) if q < 0.5 else np.maximum(chosen, 0)
        widest = out[i].min(0) if q < 0.5 else out[i].max(0)
        out[i] = np.where(count > 0, out[i], widest)
    return nested(out)


def nested(offsets: Float[np.ndarray, "5 H V"]) -> Float[np.ndarray, "5 H V"]:
    """Offsets made to widen outwards from the median, so that no two quantiles cross."""
    out = offsets.copy()
    middle = QUANTILES.index(0.5)
    for i in range(middle - 1, -1, -1):
        out[i] = np.minimum(out[i], out[i + 1])
    for i in range(middle + 1, len(QUANTILES)):
        out[i] = np.maximum(out[i], out[i - 1])
    return out
