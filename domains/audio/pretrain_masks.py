"""Which frames of a clip are hidden, and batches that say so.

Shapes: B clips, T samples, N frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..task import Batch
from .items import ClipItems

SEED = 0x5A9  # of the spans that are hidden from validation and test: the same for every model and every seed


@dataclass(frozen=True)
class Hiding:
    """Spans of ``width`` frames, ``share`` of them hidden; a frame every ``hop`` samples."""

    hop: int
    width: int
    share: float

    def drawn(self, n: int, random: np.random.Generator) -> Bool[np.ndarray, "n"]:
        """True where one of ``n`` frames is hidden. One at least is, and one at least is not; of one frame, none is.

        The clip is cut into spans from a random place on, and some of them are hidden. A clip of fewer than two spans
        is cut into shorter ones.
        """
        width = min(self.width, max(1, n // 2))
        span = (np.arange(n) + random.integers(width)) // width
        count = int(span[-1]) + 1
        if count < 2:
            return np.zeros(n, bool)
        some = min(max(1, round(self.share * count)), count - 1)
        return np.isin(span, random.choice(count, some, replace=False))

    def fixed(self, row: int, n: int) -> Bool[np.ndarray, "n"]:
        """What is hidden from a clip when it validates or tests: by its number alone."""
        return self.drawn(n, np.random.default_rng([SEED, row]))


def heard_samples(hidden: Bool[Tensor, "B N"], length: Int[Tensor, "B"], samples: int, hop: int) -> Bool[Tensor, "B T"]:
    """True at the samples that are nearer to the middle of a seen frame of their clip than to that of a hidden one."""
    nearest = (torch.arange(samples, device=hidden.device) + hop // 2) // hop
    return ~hidden.gather(1, nearest.minimum((length // hop)[:, None]))


@dataclass(frozen=True)
class MaskedItems:
    """Clips of one part: "wave" (B, T), "length" (B,), "hidden" (B, N) True where a frame is not to be seen.

    Where clips are augmented, for training, other spans are hidden each time; else they are fixed.
    """

    clips: ClipItems
    hiding: Hiding

    def __len__(self) -> int:
        return len(self.clips)

    def arrange(self, order: Int[np.ndarray, "n"], size: int, seed: Sequence[int]) -> Int[np.ndarray, "n"]:
        """As of :class:`ClipItems`."""
        return self.clips.arrange(order, size, seed)

    def batch(self, indices: Sequence[int]) -> Batch:
        batch = {k: v for k, v in self.clips.batch(indices).items() if k != "target"}
        hidden = torch.zeros(len(indices), 1 + batch["wave"].shape[1] // self.hiding.hop, dtype=torch.bool)
        for row, i, length in zip(hidden, indices, batch["length"].tolist(), strict=True):
            n = 1 + length // self.hiding.hop
            if self.clips.augment is None:
                row[:n] = torch.from_numpy(self.hiding.fixed(int(self.clips.rows[i]), n))
            else:
                row[:n] = torch.from_numpy(self.hiding.drawn(n, np.random.default_rng(int(torch.randint(2**62, ())))))
        return {**batch, "hidden": hidden}

    def by_length(self, samples: int) -> Iterator[list[int]]:
        """As of :class:`ClipItems`."""
        return self.clips.by_length(samples)
