"""The closed-form start of the forecaster: the window ridge, with or without a seasonal profile.

A profile learned over a year fits no single month, and a look-back of some days shows the present shape already. So a
profile may enter at part of its height; which one is chosen over blocks of the training part left out in turn, and
whether it enters at all by the validation part, where it must be clearly better than the plain ridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .clear import clearly_less, standard_error
from .ridge import WindowRidge, fit_ridge, without_season
from .splits import thinned, units
from .windows import Windows

STRENGTHS = (0.25, 0.5, 1.0)
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-5, 1.6, 0.5))  # per training row
_FOLDS = 6
_ROWS = 10_000  # windows x series per fit
_STEPS = 48  # of the horizon, evenly spaced: enough to rank


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


@dataclass(frozen=True)
class Judged:
    """A profile (zeros: none) with log(MSE) of the ridge behind it on each block left out."""

    profile: Float[np.ndarray, "C V"]
    errors: Float[np.ndarray, "folds"]


def closed_form(
    train: Windows, val: Windows, steps: Int[np.ndarray, "n"], periods: Sequence[int], cycle: int
) -> WindowRidge:
    """The plain window ridge, or one behind a seasonal profile where that is clearly better on validation.

    Windows are z-scored; ``steps`` are the training part; ``periods`` divide ``cycle``. ``val`` chooses penalties.
    """
    plain = fit_ridge(train, val, np.zeros((cycle, train.values.shape[1])))
    profile = choose_profile(train, steps, periods, cycle)
    if not profile.any():
        return plain
    seasonal = fit_ridge(train, val, profile)
    return seasonal if clearly_less(unit_losses(seasonal, val), unit_losses(plain, val)) else plain


def unit_losses(ridge: WindowRidge, source: Windows) -> Float[np.ndarray, "units"]:
    """Summed squared error over the observed targets of each unit of z-scored windows."""
    names, where = np.unique(units(source.origins, source.lookback, source.horizon), return_inverse=True)
    total = np.zeros(len(names))
    for places, batch in source.chunks(source.per_window * 4):
        past, mask, known = (batch[name].numpy() for name in ("past", "past_mask", "future_mask"))
        error = ridge.forecast(past, mask, batch["phase"].numpy(), source.horizon) - batch["future"].numpy()
        np.add.at(total, where[places], np.where(known, error**2, 0.0).sum((1, 2)))
    return total


def choose_profile(
    train: Windows, steps: Int[np.ndarray, "n"], periods: Sequence[int], cycle: int
) -> Float[np.ndarray, "C V"]:
    """The weakest profile (zeros: none) that blocks of the training part cannot tell from the best one.

    Blocks are left out in turn and count alike, by the logarithm of their error. "Cannot tell": within one standard
    error of the mean difference over blocks. Too few steps for three blocks: no profile.
    """
    none = np.zeros((cycle, train.values.shape[1]))
    blocks = _blocks(steps, train.horizon)
    if not blocks:
        return none
    seen = np.zeros(len(train.mask), bool)
    seen[steps] = True
    found = {0.0: [Judged(none, _errors(train, blocks, [none] * len(blocks)))]}
    for period in periods:
        if not 1 < period <= len(steps) // 4:
            continue
        profiles = []
        for block in [*blocks, steps[:0]]:
            outside = seen.copy()
            outside[block] = False
            profiles.append(seasonal_profile(train.values, train.mask & outside[:, None], train.phase, period, cycle))
        for strength in STRENGTHS:
            errors = _errors(train, blocks, [strength * p for p in profiles[:-1]])
            found.setdefault(strength, []).append(Judged(strength * profiles[-1], errors))
    ladder = [min(those, key=lambda one: float(one.errors.mean())) for _, those in sorted(found.items())]
    return weakest(ladder).profile


def weakest(ladder: Sequence[Judged]) -> Judged:
    """The first, in order of strength, whose mean error is within one standard error of the best one's."""
    best = min(ladder, key=lambda one: float(one.errors.mean()))
    for one in ladder:
        excess = one.errors - best.errors
        if one is best or excess.sum() <= standard_error(excess):
            return one
    return best


def _blocks(steps: Int[np.ndarray, "n"], horizon: int) -> list[Int[np.ndarray, "_"]]:
    """Blocks of the training part to leave out; none where they would be shorter than two horizons."""
    folds = min(_FOLDS, len(steps) // (2 * horizon))
    return np.array_split(steps, folds) if folds >= 3 else []


def _errors(
    train: Windows, blocks: Sequence[Int[np.ndarray, "_"]], profiles: Sequence[Float[np.ndarray, "C V"]]
) -> Float[np.ndarray, "folds"]:
    """log(MSE) on each block of a ridge fitted on windows that do not touch it, with the best penalty for all."""
    at = thinned(train.origins, max(200, _ROWS // train.values.shape[1]))
    found = []
    for block, profile in zip(blocks, profiles, strict=True):
        inside = (at >= block[0]) & (at + train.horizon <= block[-1] + 1)
        outside = (at + train.horizon <= block[0]) | (at - train.lookback > block[-1])
        if inside.any() and outside.any():
            found.append(_fold_errors(without_season(train, profile), at[outside], at[inside]))
    if not found:
        return np.zeros(1)
    logs = np.log(np.stack(found) + 1e-12)
    return np.asarray(logs[:, int(logs.mean(0).argmin())])


def _fold_errors(source: Windows, fit: Int[np.ndarray, "n"], held: Int[np.ndarray, "m"]) -> Float[np.ndarray, "P"]:
    """Mean squared error on left-out windows for each penalty."""
    x, y, _ = _rows(source, fit)
    count = len(x)
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    x, y, known = _rows(source, held)
    x = x @ vectors
    found = []
    for penalty in PENALTIES:
        error = np.where(known, x @ (turned / (np.maximum(values, 0) + penalty * count)[:, None]) - y, 0.0)
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
