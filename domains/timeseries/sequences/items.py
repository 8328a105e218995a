"""Batches of event sequences of any lengths, words numbered as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from domains.task import Batch, Fitted

from .data import Events


@dataclass(frozen=True)
class EventItems:
    """Examples of one part. ``codes``: word of each event and category among those of training, from 2; 0 unknown."""

    data: Events
    rows: Int64[np.ndarray, "n"]
    codes: Int64[np.ndarray, "N c"]
    targets: Int64[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """ "words" (B, N, c), "numbers" (B, N, m), "time" and "seen" (B, N); zeros behind each example's last event."""
        spans = self.data.examples[self.rows[np.asarray(indices, np.int64)]]
        size = int((spans[:, 1] - spans[:, 0]).max()) + 1
        at = spans[:, :1] + np.arange(size)
        seen = at <= spans[:, 1:]
        at = np.where(seen, at, spans[:, 1:])
        batch = {
            "words": torch.from_numpy(np.where(seen[..., None], self.codes[at], 0)),
            "numbers": torch.from_numpy(np.where(seen[..., None], self.data.numbers[at], 0.0)),
            "time": torch.from_numpy(self.data.time[at]),
            "seen": torch.from_numpy(seen),
        }
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[np.asarray(indices, np.int64)])
        return batch


def coded(data: Events, fitted: Fitted) -> Int64[np.ndarray, "N c"]:
    """Words by their place in the training's vocabulary plus 2; 0 where it did not have them."""
    out = np.zeros_like(data.words)
    for c, (here, there) in enumerate(zip(data.vocabulary, fitted["vocabulary"], strict=True)):
        place = {word: i + 2 for i, word in enumerate(there)}
        table = np.array([place.get(word, 0) for word in here] or [0], np.int64)
        out[:, c] = table[data.words[:, c]]
    return out
