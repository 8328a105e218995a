"""DLinear ("Are Transformers Effective for Time Series Forecasting?", Zeng et al. 2023) in closed form.

One map for the moving mean of a look-back and one for what is left of it, with an offset, shared by all series; the
window's own mean is not taken out. Ridge regression on training windows, the penalty chosen on validation: what the
paper's stochastic descent goes towards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .ridge import MAX_ROWS, PENALTIES, WindowRidge
from .splits import thinned
from .windows import Windows, rows

KERNEL = 25  # steps of the moving mean, as in the paper
_ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class DLinear:
    """A fitted map of look-backs with a 1 behind them, both branches in one: [x, 1] -> H steps."""

    weight: Float[np.ndarray, "K H"]
    penalty: float

    def forecast(self, past: Float[np.ndarray, "B L V"], mask: Bool[np.ndarray, "B L V"]) -> Float[np.ndarray, "B H V"]:
        """z-scored look-backs (missing ones count as the training mean) -> z-scored forecasts."""
        x = np.where(mask, past, 0.0)
        return np.asarray(np.einsum("blv,lh->bhv", x, self.weight[:-1], optimize=True) + self.weight[-1][:, None])


def branches(lookback: int) -> Float[np.ndarray, "K F"]:
    """[x, 1] -> [moving mean, remainder, 1]; the ends of the look-back are repeated where the mean reaches beyond."""
    mean = np.zeros((lookback, lookback))
    for step in range(lookback):
        near = np.clip(np.arange(step - (KERNEL - 1) // 2, step + KERNEL // 2 + 1), 0, lookback - 1)
        np.add.at(mean[:, step], near, 1 / KERNEL)
    out = np.zeros((lookback + 1, 2 * lookback + 1))
    out[:-1, :lookback], out[:-1, lookback:-1], out[-1, -1] = mean, np.eye(lookback) - mean, 1.0
    return out


def fit_dlinear(train: Windows, val: Windows, ridge: WindowRidge) -> DLinear:
    """Fitted on z-scored windows; missing training targets stand in as the window ridge (without season) has them."""
    of, size = branches(train.lookback), train.lookback + 1
    gram, cross = np.zeros((size, size)), np.zeros((size, train.horizon))
    for x, y, _ in _pieces(train, ridge):
        gram += x.T @ x
        cross += x.T @ y
    values, vectors = np.linalg.eigh(of.T @ gram @ of)
    turned, back = vectors.T @ (of.T @ cross), of @ vectors
    weights = [back @ (turned / (np.maximum(values, 0) + p)[:, None]) for p in PENALTIES]
    errors = np.zeros(len(weights))
    for x, y, known in _pieces(val, ridge):
        for i, weight in enumerate(weights):
            errors[i] += float((np.where(known, x @ weight - y, 0.0) ** 2).sum())
    best = int(errors.argmin())
    return DLinear(weights[best], PENALTIES[best])


def _pieces(
    source: Windows, ridge: WindowRidge
) -> Iterator[tuple[Float[np.ndarray, "r K"], Float[np.ndarray, "r H"], Bool[np.ndarray, "r H"]]]:
    """[look-back, 1], targets and which of them are known, of evenly thinned windows, some rows at a time."""
    count = source.values.shape[1]
    places = thinned(np.arange(len(source)), max(1, MAX_ROWS // count))
    for v in range(count):
        for at in range(0, len(places), _ROWS_AT_ONCE):
            x, seen, y, known = rows(source, places[at : at + _ROWS_AT_ONCE], v, 0.0, 1.0)
            if not known.all():
                mean = x.sum(1, keepdims=True) / np.maximum(1, seen.sum(1, keepdims=True))
                y = np.where(known, y, np.where(seen, x - mean, 0.0) @ ridge.weight + mean)
            yield np.concatenate([x, np.ones((len(x), 1))], 1), y, known
