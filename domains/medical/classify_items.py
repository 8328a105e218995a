"""Batches of canvases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from ..task import Batch
from .augment import augmented, mixed
from .canvas import as_tensor
from .cases import Cases
from .classify_config import ImageAugmentOptions


@dataclass(frozen=True)
class ImageItems:
    """Cases of one part: "image" (B, C, S, S) within 0 .. 1, "target" (B, L) with NaN where not known.

    ``augment``: what is done to them while training.
    """

    data: Cases
    rows: Int[np.ndarray, "n"]
    augment: ImageAugmentOptions | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        at = self.rows[np.asarray(indices, np.int64)]
        image, target = as_tensor(self.data.canvases[at]), torch.from_numpy(self.data.target[at])
        if self.augment is not None:
            image = augmented(image, self.augment)
            if self.augment.mixup:
                image, target = mixed(image, target, self.augment.mixup)
        return {"image": image, "target": target}
