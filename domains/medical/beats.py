"""Beats found against beats that are there: matching, and maxima of a probability over time.

Times are in seconds.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

REFRACTORY = 0.2  # s: two heart beats are never nearer


def matched(truth: Float[np.ndarray, "n"], found: Float[np.ndarray, "m"], tolerance: float) -> Int64[np.ndarray, "n"]:
    """For each true beat the place of the found one that it is paired with, or -1. One to one, both in order.

    Walks both in time; of several that a beat could be paired with, the nearest that leaves no pair out is taken.
    """
    pairs = np.full(len(truth), -1, np.int64)
    j = 0
    for i, at in enumerate(truth):
        while j < len(found) and found[j] < at - tolerance:
            j += 1
        best = -1
        k = j
        while k < len(found) and found[k] <= at + tolerance:
            nearer = best < 0 or abs(found[k] - at) < abs(found[best] - at)
            claimed = k > j and i + 1 < len(truth) and abs(found[k] - truth[i + 1]) < abs(found[k] - at)
            if nearer and not claimed:
                best = k
            k += 1
        if best >= 0:
            pairs[i] = best
            j = best + 1
    return pairs


def peaks(
    probability: Float[np.ndarray, "N"], step: float, threshold: float
) -> tuple[Float[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """(times, places) of local maxima above a threshold, the higher first where two are nearer than REFRACTORY.

    Times are those of the vertex of a parabola through a maximum and its neighbours. step: seconds between places.
    """
    p = np.concatenate([[-np.inf], probability, [-np.inf]])
    top = np.flatnonzero((p[1:-1] >= threshold) & (p[1:-1] > p[:-2]) & (p[1:-1] >= p[2:]))
    kept: list[int] = []
    taken = np.zeros(len(probability), bool)
    reach = max(1, int(np.ceil(REFRACTORY / step)) - 1)
    for i in top[np.argsort(-probability[top], kind="stable")]:
        if not taken[i]:
            kept.append(int(i))
            taken[max(0, i - reach) : i + reach + 1] = True
    at = np.array(sorted(kept), np.int64)
    shift = np.zeros(len(at))
    inner = (at > 0) & (at < len(probability) - 1)
    a, b, c = (probability[at[inner] + d].astype(np.float64) for d in (-1, 0, 1))
    bend = a - 2 * b + c
    shift[inner] = np.where(bend < 0, 0.5 * (a - c) / np.where(bend < 0, bend, 1), 0).clip(-0.5, 0.5)
    return (at + shift) * step, at
