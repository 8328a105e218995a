"""Blocks of a part, spoilt and clean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...task import Batch, Fitted, Part, Split
from .source import Block, CleanData, Scaled

if TYPE_CHECKING:
    from .task import Restore

Cube = Float[np.ndarray, "b rows cols"]


@dataclass(frozen=True)
class Pairs:
    """Blocks of a part, spoilt and clean, padded to one size.

    A batch: "given" and "clean" (B, b, S, S) scaled to 0..1, "seen" (B, b, S, S), False beyond a block. A training
    part has each block ``crops`` times, turned, flipped, brightened and spoilt by torch's random state.
    """

    task: Restore
    data: CleanData
    split: Split
    fitted: Fitted
    part: Part

    @property
    def blocks(self) -> list[Block]:
        return self.task.blocks_of_part(self.data, self.split, self.part)

    def __len__(self) -> int:
        return len(self.split.parts[self.part]) * (self.task.config.crops if self.part == "train" else 1)

    def _clean(self, i: int) -> tuple[Cube, Any]:
        values, seen = self.data.plain.read(*self.blocks[i])
        used, scale = self.fitted["used"], Scaled(self.fitted["low"], self.fitted["high"])
        seen = seen[used]
        return np.where(seen, scale.put(values[used]), np.float32(0)).astype(np.float32), seen

    def pair(self, i: int, draw: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """(given, clean, seen) of block i as batches of one, spoilt by a random state of its own."""
        clean, seen = self._clean(i)
        rng = np.random.default_rng([draw, int(self.split.parts[self.part][i]), self.task.config.draw])
        given = np.where(seen, self.task.spoil(clean, rng, self.data.images), 0.0).astype(np.float32)
        found = (torch.from_numpy(given), torch.from_numpy(clean), torch.from_numpy(np.ascontiguousarray(seen)))
        return found[0][None], found[1][None], found[2][None]

    def _fresh(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        clean, seen = self._clean(i)
        turns, flip, seed = (int(torch.randint(0, n, ())) for n in (4, 2, 2**31 - 1))
        clean, seen = (np.rot90(v, turns, (1, 2)) for v in (clean, seen))
        if flip:
            clean, seen = clean[:, :, ::-1], seen[:, :, ::-1]
        light = max(0.1, 1 + self.task.config.light * float(torch.randn(())))
        clean = np.ascontiguousarray(clean * np.float32(light))
        given = np.where(seen, self.task.spoil(clean, np.random.default_rng(seed), self.data.images), 0.0).astype(
            np.float32
        )
        return torch.from_numpy(given), torch.from_numpy(clean), torch.from_numpy(np.ascontiguousarray(seen))

    def batch(self, indices: Any) -> Batch:
        blocks, count = self.blocks, len(self.split.parts[self.part])
        side = max(s.stop - s.start for b in blocks for s in b)
        names = ("given", "clean", "seen")
        stacks: dict[str, list[Tensor]] = {n: [] for n in names}
        for index in indices:
            i = int(index) % count
            three = self._fresh(i) if self.part == "train" else tuple(t[0] for t in self.pair(i))
            for name, t in zip(names, three, strict=True):
                whole = torch.zeros(t.shape[0], side, side, dtype=t.dtype)
                whole[:, : t.shape[1], : t.shape[2]] = t
                stacks[name].append(whole)
        return {n: torch.stack(s) for n, s in stacks.items()}
