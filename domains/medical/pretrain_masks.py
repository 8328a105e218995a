"""Which squares of an image are hidden, and batches that say so.

Shapes: B images, P squares of an image in rows, S side of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..task import Batch
from .augment import augmented
from .canvas import as_tensor
from .cases import Cases
from .classify_config import ImageAugmentOptions

SEED = 0x3A5C  # of the squares that are hidden from validation and test: the same for every model and every seed


def hidden_count(places: int, share: float) -> int:
    """How many squares are hidden: the share, but one at least is hidden and one at least is seen."""
    return min(max(1, round(share * places)), places - 1)


def drawn(b: int, places: int, share: float) -> Bool[Tensor, "B P"]:
    """Other squares for every image, from torch's generator."""
    return torch.rand(b, places).argsort(1).argsort(1) < hidden_count(places, share)


def fixed(rows: Sequence[int], places: int, share: float) -> Bool[Tensor, "B P"]:
    """The squares hidden from a case when it validates or tests: by its number alone."""
    count = hidden_count(places, share)
    orders = [np.random.default_rng([SEED, int(row)]).permutation(places) < count for row in rows]
    return torch.from_numpy(np.stack(orders))


def unseen_pixels(hidden: Bool[Tensor, "B P"], side: int) -> Bool[Tensor, "B 1 S S"]:
    """True at the pixels of hidden squares, which divide the canvas evenly."""
    grid = round(hidden.shape[1] ** 0.5)
    squares = hidden.view(-1, 1, grid, grid)
    return squares.repeat_interleave(side // grid, 2).repeat_interleave(side // grid, 3)


@dataclass(frozen=True)
class MaskedItems:
    """Cases of one part: "image" (B, C, S, S) within 0 .. 1, "hidden" (B, P) True where a square is not to be seen.

    ``augment``: of training, whose squares are drawn anew each time; else they are fixed.
    """

    data: Cases
    rows: Int[np.ndarray, "n"]
    places: int
    share: float
    augment: ImageAugmentOptions | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        at = self.rows[np.asarray(indices, np.int64)]
        image = as_tensor(self.data.canvases[at])
        if self.augment is None:
            return {"image": image, "hidden": fixed(at.tolist(), self.places, self.share)}
        return {"image": augmented(image, self.augment), "hidden": drawn(len(at), self.places, self.share)}
