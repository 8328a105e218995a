"""What happens at which step, as pure functions of (seed, epoch, step, rank): the reason why resuming is exact.

Order of examples, learning rate and random numbers depend on nothing but the position, so a checkpoint that holds
the position holds the sampler's and the random state.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int

from ..config import TrainConfig


def seed_all(*position: int) -> None:
    """Set the random state of python, numpy and torch from a position, e.g. (seed, epoch, step, rank)."""
    words = np.random.SeedSequence(position).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed takes a hundred times as long: it asks for
    if torch.cuda.is_available():  # devices that nothing here runs on
        torch.cuda.manual_seed_all(int(words[2]))


def permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    """The order of n examples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def arranged(items: object, order: Int[np.ndarray, "n"], size: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    """The order of an epoch as the examples would have it, where they say: a pure function, so a run still resumes.

    ``items.arrange(order, size, (seed, epoch))`` returns the same examples in an order in which batches of ``size``
    waste less, such as recordings of like length side by side.
    """
    arrange = getattr(items, "arrange", None)
    return order if arrange is None else np.asarray(arrange(order, size, (seed, epoch)))


def batches(n: int, size: int) -> int:
    """Batches of ``size`` that n examples make, the last one perhaps smaller, never dropped."""
    return math.ceil(n / size)


def steps_per_epoch(n: int, train: TrainConfig) -> int:
    """Optimiser steps in an epoch over n examples."""
    return math.ceil(batches(n, train.batch_size) / train.accumulate)


def share(batch: Int[np.ndarray, "b"], rank: int, world: int) -> tuple[Int[np.ndarray, "s"], bool]:
    """One device's part of a batch, and whether it counts.

    A device without a part takes the first example with weight zero, because all devices must take every step.
    """
    mine = batch[rank::world]
    return (mine, True) if len(mine) else (batch[:1], False)


def micro_batches(
    order: Int[np.ndarray, "n"], step: int, train: TrainConfig, rank: int, world: int
) -> Iterator[tuple[Int[np.ndarray, "s"], bool]]:
    """One device's parts of the batches of one optimiser step."""
    first = step * train.accumulate
    for b in range(first, min(first + train.accumulate, batches(len(order), train.batch_size))):
        yield share(order[b * train.batch_size : (b + 1) * train.batch_size], rank, world)


def rate(step: int, total: int, train: TrainConfig) -> float:
    """Learning rate of the optimiser step ``step`` (from 0) of ``total``: a linear rise, then as ``schedule`` says.

    The cosine ends at zero one step after the last, so that no step is wasted.
    """
    rise = math.ceil(train.warmup * total)
    if step < rise:
        return train.lr * (step + 1) / rise
    if train.schedule == "constant":
        return train.lr
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
