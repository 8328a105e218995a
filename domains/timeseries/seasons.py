"""The seasonal profile that is taken out of the look-back and put back ahead: which period, how much of it.

A profile learned over a year fits no single month, and a look-back of some days shows the present shape already. So a
profile may enter at part of its height. Whether it enters, and the ridge's penalty, are chosen over blocks of the
training part left out in turn beside the validation part; alone, that part is one season of the year and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .ridge import without_season
from .splits import thinned
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
class Start:
    """What the ridge starts from: the profile to take out (zeros: none) and the penalty per training row."""

    profile: Float[np.ndarray, "C V"]
    penalty: float
    errors: Float[np.ndarray, "folds"]  # log(MSE) on each part left out


def choose_start(
    train: Windows, val: Windows, steps: Int[np.ndarray, "n"], periods: Sequence[int], cycle: int
) -> Start:
    """The weakest profile, with its best penalty, that parts left out in turn cannot tell from the best one.

    Those parts are blocks of the training part, and the validation part; every one counts alike, by the logarithm of
    its error. "Cannot tell": within one standard error, over the parts, of the difference. Windows are z-scored;
    ``steps`` are the training part; ``periods`` divide ``cycle``.
    """
    blocks = _blocks(steps, train.horizon)
    seen = np.zeros(len(train.mask), bool)
    seen[steps] = True
    none = np.zeros((cycle, train.values.shape[1]))
    found = {0.0: [_judged(train, val, blocks, [none] * (len(blocks) + 1))]}
    for period in periods:
        if not 1 < period <= len(steps) // 4:
            continue
        profiles = []
        for block in [*blocks, steps[:0]]:
            outside = seen.copy()
            outside[block] = False
            profiles.append(seasonal_profile(train.values, train.mask & outside[:, None], train.phase, period, cycle))
        for strength in STRENGTHS:
            found.setdefault(strength, []).append(_judged(train, val, blocks, [strength * p for p in profiles]))
    ladder = [min(starts, key=lambda start: float(start.errors.mean())) for _, starts in sorted(found.items())]
    return weakest(ladder)


def weakest(ladder: Sequence[Start]) -> Start:
    """The first of starts in order of strength whose mean error is within one standard error of the best one's."""
    best = min(ladder, key=lambda start: float(start.errors.mean()))
    for start in ladder:
        excess = start.errors - best.errors
        spread = float(excess.std(ddof=1)) / np.sqrt(len(excess)) if len(excess) > 1 else 0.0
        if float(excess.mean()) <= spread:
            return start
    return best


def _blocks(steps: Int[np.ndarray, "n"], horizon: int) -> list[Int[np.ndarray, "_"]]:
    """Blocks of the training part to leave out; none where they would be shorter than two horizons."""
    folds = min(_FOLDS, len(steps) // (2 * horizon))
    return np.array_split(steps, folds) if folds >= 3 else []


def _judged(
    train: Windows, val: Windows, blocks: Sequence[Int[np.ndarray, "_"]], profiles: Sequence[Float[np.ndarray, "C V"]]
) -> Start:
    """A profile, as each block leaves it, scored; the last of ``profiles`` is of the whole training part."""
    most = max(200, _ROWS // train.values.shape[1])
    at, newest = thinned(train.origins, most), thinned(val.origins, most // 2)
    errors = [_fold_errors(without_season(train, profiles[-1]), at, newest)]
    for block, profile in zip(blocks, profiles, strict=False):
        inside = (at >= block[0]) & (at + train.horizon <= block[-1] + 1)
        outside = (at + train.horizon <= block[0]) | (at - train.lookback > block[-1])
        if inside.any() and outside.any():
            errors.append(_fold_errors(without_season(train, profile), at[outside], at[inside]))
    logs = np.log(np.stack(errors) + 1e-12)
    best = int(logs.mean(0).argmin())
    return Start(profiles[-1], PENALTIES[best], logs[:, best])


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
