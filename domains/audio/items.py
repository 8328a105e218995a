"""Batches of clips of any lengths, and the order in which they waste least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..task import Batch
from .augment import augmented
from .clips import Clips
from .config import AugmentOptions


def collate(waves: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Samples side by side, zeros behind each clip's end: "wave" (B, T), "length" (B,)."""
    length = torch.tensor([len(w) for w in waves])
    wave = torch.zeros(len(waves), int(length.max()))
    for row, w in zip(wave, waves, strict=True):
        row[: len(w)] = torch.from_numpy(np.ascontiguousarray(w))
    return {"wave": wave, "length": length}


@dataclass(frozen=True)
class ClipItems:
    """Clips of one part. ``augment``: what is done to them while training; draws come from torch's generator."""

    data: Clips
    rows: Int[np.ndarray, "n"]
    augment: AugmentOptions | None = None
    buckets: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def arrange(self, order: Int[np.ndarray, "n"], size: int, seed: Sequence[int]) -> Int[np.ndarray, "n"]:
        """The order of an epoch, as :func:`bucketed` has it."""
        lengths = np.array([len(self.data.waves[int(i)]) for i in self.rows])
        return bucketed(order, lengths, size, seed, self.buckets) if self.buckets else order

    def batch(self, indices: Sequence[int]) -> Batch:
        at = [int(self.rows[i]) for i in indices]
        waves = [self.data.waves[i] for i in at]
        if self.augment is not None:
            random = np.random.default_rng(int(torch.randint(2**62, ())))
            waves = [augmented(w, self.data.rate, self.augment, random, self.data.noises) for w in waves]
        return {**collate(waves), "target": torch.from_numpy(self.data.labels[at])}

    def by_length(self, samples: int) -> Iterator[list[int]]:
        """Indices of all items in batches of clips of like length, none with more than ``samples`` in all."""
        lengths = [len(self.data.waves[int(i)]) for i in self.rows]
        batch: list[int] = []
        for i in np.argsort(lengths, kind="stable"):
            if batch and lengths[i] * (len(batch) + 1) > samples:
                yield batch
                batch = []
            batch.append(int(i))
        if batch:
            yield batch


def bucketed(
    order: Int[np.ndarray, "n"], lengths: Int[np.ndarray, "n"], size: int, seed: Sequence[int], buckets: int = 8
) -> Int[np.ndarray, "n"]:
    """A random order whose batches of ``size`` hold clips of like length.

    ``order`` is cut into stretches of ``buckets`` batches, each sorted by length, and the batches are shuffled. A pure
    function of its arguments, so a run resumes at any batch by arithmetic.
    """
    span = size * buckets
    parts = [order[i : i + span] for i in range(0, len(order), span)]
    batches = [b for p in parts for b in np.split(p[np.argsort(lengths[p], kind="stable")], range(size, len(p), size))]
    *whole, last = batches if len(batches[-1]) < size else [*batches, order[:0]]
    turn = np.random.default_rng(list(seed)).permutation(len(whole))
    return np.concatenate([*(whole[i] for i in turn), last]).astype(order.dtype)
