"""The seasonal profile that is taken out of the look-back and put back ahead: which period, how much of it.

A profile learned over a year fits no single month, and a look-back of some days shows the present shape already. So a
profile may enter at half its height, and whether it enters is decided by blocked cross-validation inside the training
part: one validation part is one season of the year, and chooses for that season.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from .ridge import without_season
from .splits import thinned
from .windows import Windows

STRENGTHS = (0.5, 1.0)
_FOLDS = 6
_ROWS = 8000  # windows x series per fit
_STEPS = 48  # of the horizon, evenly spaced: enough to rank profiles
_PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)


def seasonal_profile(
    values: Float[np.ndarray, "T V"],
    mask: Bool[np.ndarray, "T V"],
    phase: Int[np.ndarray, "T"],
    period: int,
    cycle: int,
) -> Float[np.ndarray, "C V"]:
    """Mean deviation from a centred moving mean at each place of the season, tiled to ``cycle`` places.

    The classical decomposition: the moving mean spans one whole period (its two ends count half where it is even).
    Only observed steps enter; a place of the season that was never observed gets 0.
    """
    kernel = np.ones(period + 1) / period
    kernel[[0, -1]] = 0.5 / period
    smooth = lambda a: np.stack([np.convolve(column, kernel, "same") for column in a.T], 1)  # noqa: E731
    share = smooth(mask.astype(float))
    inside = mask & (share > 0.5)
    deviation = np.where(inside, values - smooth(np.where(mask, values, 0.0)) / np.maximum(share, 1e-9), 0.0)
    out = np.zeros((period, values.shape[1]))
    count = np.zeros_like(out)
    np.add.at(out, phase % period, deviation)
    np.add.at(count, phase % period, inside)
    out = out / np.maximum(count, 1)
    return np.tile(out - out.mean(0), (cycle // period, 1))


def choose_profile(
    train: Windows, steps: Int[np.ndarray, "n"], periods: Sequence[int], cycle: int
) -> Float[np.ndarray, "C V"]:
    """The profile (zeros: none) whose ridge has the least error over blocks of the training part left out in turn.

    ``train`` is z-scored; ``steps`` are the training part; ``periods`` divide ``cycle``. Every block counts alike: the
    score is the mean of the logarithm of each block's error. Too few steps for three blocks: no profile.
    """
    none = np.zeros((cycle, train.values.shape[1]))
    usable = [period for period in periods if 1 < period <= len(steps) // 4]
    folds = min(_FOLDS, len(steps) // (2 * train.horizon))
    if folds < 3 or not usable:
        return none
    blocks = np.array_split(steps, folds)
    seen = np.zeros(len(train.mask), bool)
    seen[steps] = True
    best, chosen = _left_out_error(train, blocks, [none] * folds), none
    for period in usable:
        profiles = []
        for block in blocks:
            outside = seen.copy()
            outside[block] = False
            profiles.append(seasonal_profile(train.values, train.mask & outside[:, None], train.phase, period, cycle))
        whole = seasonal_profile(train.values, train.mask & seen[:, None], train.phase, period, cycle)
        for strength in STRENGTHS:
            error = _left_out_error(train, blocks, [strength * profile for profile in profiles])
            if error < best:
                best, chosen = error, strength * whole
    return chosen


def _left_out_error(
    train: Windows, blocks: Sequence[Int[np.ndarray, "n"]], profiles: Sequence[Float[np.ndarray, "C V"]]
) -> float:
    """Mean over blocks of log(MSE) of a ridge fitted on windows that do not touch the block; best penalty of all."""
    at = thinned(train.origins, max(200, _ROWS // train.values.shape[1]))
    errors = []
    for block, profile in zip(blocks, profiles, strict=True):
        inside = (at >= block[0]) & (at + train.horizon <= block[-1] + 1)
        outside = (at + train.horizon <= block[0]) | (at - train.lookback > block[-1])
        if inside.any() and outside.any():
            errors.append(_fold_errors(without_season(train, profile), at[outside], at[inside]))
    return float(np.log(np.stack(errors) + 1e-12).mean(0).min()) if errors else float("inf")


def _fold_errors(source: Windows, fit: Int[np.ndarray, "n"], held: Int[np.ndarray, "m"]) -> Float[np.ndarray, "P"]:
    """Mean squared error on held-out windows for each penalty."""
    x, y, _ = _rows(source, fit)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    x, y, known = _rows(source, held)
    x = x @ vectors
    found = []
    for penalty in _PENALTIES:
        error = np.where(known, x @ (turned / (np.maximum(values, 0) + penalty)[:, None]) - y, 0.0)
        found.append(float((error.astype(np.float64) ** 2).sum() / max(1, known.sum())))
    return np.array(found)


def _rows(
    source: Windows, at: Int[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "r L"], Float[np.ndarray, "r h"], Bool[np.ndarray, "r h"]]:
    """Look-backs and thinned targets of all series less the window mean, single precision; missing places are 0."""
    back = at[:, None] + np.arange(-source.lookback, 0)
    ahead = at[:, None] + thinned(np.arange(source.horizon), _STEPS)
    flat = lambda a: a.swapaxes(1, 2).reshape(-1, a.shape[1])  # noqa: E731
    x, seen, y, known = (
        flat(a) for a in (source.values[back], source.mask[back], source.values[ahead], source.mask[ahead])
    )
    mean = x.sum(1, keepdims=True) / np.maximum(1, seen.sum(1, keepdims=True))
    return (
        np.where(seen, x - mean, 0.0).astype(np.float32),
        np.where(known, y - mean, 0.0).astype(np.float32),
        known,
    )
