"""Which cells of a cube are hidden, and batches that say so.

Shapes: B windows, b bands, S side of a window, G spans of bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from ...task import Batch
from ..samples import Tiles, band_sample
from .config import PretrainOptions

SEED = 0x5CE2  # of the cells that are hidden from validation and test: the same for every model and every seed


def spans_of(nm: Sequence[float], count: int) -> Int64[Tensor, "b"]:
    """The span of every band: neighbours in wavelength, equally many in each as far as possible."""
    span = torch.zeros(len(nm), dtype=torch.long)
    for i, members in enumerate(np.array_split(np.argsort(nm, kind="stable"), min(count, len(nm)))):
        span[torch.from_numpy(members)] = i
    return span


def hidden_cells(
    seen: Bool[Tensor, "b S S"], span: Int64[Tensor, "b"], options: PretrainOptions, draw: torch.Generator | None = None
) -> Bool[Tensor, "b S S"]:
    """True where a measured value is hidden: a share of the cells that hold any, at least one, and one stays.

    ``draw``: by this generator; else by torch's random state.
    """
    side, p, groups = seen.shape[-1], options.patch, int(span.max()) + 1
    held = F.max_pool2d(seen[None].float(), p, ceil_mode=True)[0]
    cells = torch.zeros(groups, *held.shape[1:]).index_add_(0, span, held) > 0
    if options.mask == "spans":
        cells = cells.any(2, keepdim=True).any(1, keepdim=True)
    elif options.mask == "places":
        cells = cells.any(0, keepdim=True)
    order = torch.rand(cells.shape, generator=draw).masked_fill(~cells, 2.0).flatten().argsort().argsort()
    full = int(cells.sum())
    count = min(max(1, round(options.hide * full)), max(1, full - 1))
    chosen = (order < count).view(cells.shape) & cells
    whole = chosen.expand(groups, *held.shape[1:])
    return whole.repeat_interleave(p, 1).repeat_interleave(p, 2)[span, :side, :side] & seen


@dataclass(frozen=True)
class MaskedTiles:
    """Windows of :class:`~..samples.Tiles` with "hidden" (B, b, S, S): True where a measured value is not to be seen.

    ``fresh``: of training, other cells each time, by torch's random state; else always the same, by the window's place.
    """

    tiles: Tiles
    span: Int64[Tensor, "b"]
    options: PretrainOptions
    fresh: bool

    def __len__(self) -> int:
        return len(self.tiles)

    def batch(self, indices: Sequence[int]) -> Batch:
        batch = dict(self.tiles.batch(indices))
        seen = batch["seen"]
        if self.fresh and self.options.sample_bands:
            shown = seen & band_sample(seen.shape[1])[:, None, None]
            seen = torch.where(shown.flatten(1).any(1)[:, None, None, None], shown, seen)
        draws = [None if self.fresh else self._fixed(int(i)) for i in indices]
        hidden = [hidden_cells(s, self.span, self.options, d) for s, d in zip(seen, draws, strict=True)]
        return {"cube": batch["cube"], "seen": seen, "hidden": torch.stack(hidden)}

    def _fixed(self, i: int) -> torch.Generator:
        top, left = (int(v) for v in self.tiles.corners[i])
        return torch.Generator().manual_seed(SEED + 100_003 * top + left)

    def one_by_one(self) -> Iterator[tuple[Batch, Int64[np.ndarray, "S S"]]]:
        """Every window as a batch of one, and the flat index of each of its pixels."""
        for i in range(len(self)):
            yield self.batch([i]), self.tiles.place(i).numpy()
