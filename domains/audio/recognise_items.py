"""Batches of utterances with their labels, and which of them CTC can learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..task import Batch, Fitted
from .clips import Clips
from .config import AugmentOptions
from .items import ClipItems
from .text import Alphabet


def alphabet_of(fitted: Fitted) -> Alphabet:
    """The symbols of a trained recogniser."""
    return Alphabet(tuple(fitted["symbols"]), fitted["unit"])


@dataclass(frozen=True)
class UtteranceItems:
    """Utterances of one part."""

    data: Clips
    rows: Int[np.ndarray, "n"]
    alphabet: Alphabet
    augment: AugmentOptions | None = None
    buckets: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clips(self) -> ClipItems:
        """The same without words."""
        return ClipItems(self.data, self.rows, self.augment, self.buckets)

    def arrange(self, order: Int[np.ndarray, "n"], size: int, seed: Sequence[int]) -> Int[np.ndarray, "n"]:
        """As of :class:`ClipItems`."""
        return self.clips.arrange(order, size, seed)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Waves as of :class:`ClipItems`; "labels" (B, U), 0 behind each one's own, and "label_length" (B,).

        Symbols that no label stands for are left out.
        """
        spelt = [self.alphabet.known(self.data.texts[int(self.rows[i])] or "") for i in indices]
        labels = torch.zeros(len(spelt), max(1, *map(len, spelt)), dtype=torch.long)
        for row, own in zip(labels, spelt, strict=True):
            row[: len(own)] = torch.tensor(own)
        waves = {k: v for k, v in self.clips.batch(indices).items() if k != "target"}
        return {**waves, "labels": labels, "label_length": torch.tensor([len(own) for own in spelt])}

    def by_length(self, samples: int) -> Iterator[list[int]]:
        """As of :class:`ClipItems`."""
        return self.clips.by_length(samples)


def spellable(data: Clips, rows: Int[np.ndarray, "n"], alphabet: Alphabet) -> Int[np.ndarray, "m"]:
    """Those of ``rows`` whose transcripts the alphabet can spell."""
    return np.array(
        [int(i) for i in rows if data.texts[int(i)] and not alphabet.strange(data.texts[int(i)] or "")], int
    )


def needed(labels: Int[Tensor, "B U"], label_length: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Fewest tokens that can spell each row of labels; see :func:`~domains.audio.ctc.frames_needed`."""
    twice = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] > 0)
    return label_length + twice.sum(1)
