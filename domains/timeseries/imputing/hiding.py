"""What is hidden from a model, so that its answers can be held against something.

Shapes: T steps (of one window or of a whole part), V series; leading axes are independent.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from .config import ImputeConfig


def draws(shape: tuple[int, ...], random: np.random.Generator) -> Float[np.ndarray, "..."]:
    return random.random(shape, dtype=np.float32)


def hidden(shape: tuple[int, ...], config: ImputeConfig, random: np.random.Generator) -> Bool[np.ndarray, "..."]:
    """True where a value is hidden, of shape (..., T, V); on average ``config.share`` of all.

    Stretches are a chain with two states: a hidden one ends with chance 1 / gap at every step, and so often does one
    begin that the share comes out. Lengths are geometric.
    """
    if config.hide == "points":
        return draws(shape, random) < config.share
    *lead, steps, series = shape
    across = series if config.hide == "blocks" else 1
    ends, begins = 1 / config.gap, min(1.0, config.share / (config.gap * (1 - config.share)))
    state = draws((*lead, across), random) < config.share
    luck = draws((steps, *lead, across), random)  # row t says whether the state changes behind step t
    found = np.empty(luck.shape, bool)
    for t in range(steps):
        found[t] = state
        state = np.where(state, luck[t] >= ends, luck[t] < begins)
    return np.broadcast_to(np.moveaxis(found, 0, -2), shape).copy()
