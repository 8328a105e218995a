"""Windows of series with values hidden. Original units; 0 stands where nothing is shown, and the masks say so.

Shapes: B windows, L steps, V series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from domains.task import Batch

from ..data import Panel
from ..grid import phase
from .config import ImputeConfig
from .hiding import hidden

AT_ONCE = 2_000_000  # numbers of a chunk


@dataclass(frozen=True)
class Gaps:
    """Windows of one part. ``hidden`` (T, V) is fixed; None: drawn anew for every batch, from torch's random state.

    ``counts`` (n, L): the steps of each window that are scored; the last window overlaps the one before.
    """

    starts: Int[np.ndarray, "n"]
    counts: Bool[np.ndarray, "n L"]
    values: Float[np.ndarray, "T V"]
    mask: Bool[np.ndarray, "T V"]
    phase: Int[np.ndarray, "T"]
    hidden: Bool[np.ndarray, "T V"] | None
    config: ImputeConfig

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Sequence[int]) -> Batch:
        """ "values" (B, L, V), "seen": what the model may read, "asked": what is hidden and known, "phase" (B, L)."""
        rows = np.asarray(indices, np.int64)
        at = self.starts[rows][:, None] + np.arange(self.config.length)
        known = self.mask[at]
        if self.hidden is None:
            random = np.random.default_rng(int(torch.randint(2**31, ()).item()))
            away = hidden(known.shape, self.config, random)
        else:
            away = self.hidden[at]
        arrays = {
            "values": np.where(known, self.values[at], 0.0),
            "seen": known & ~away,
            "asked": known & away & self.counts[rows][..., None],
            "phase": self.phase[at],
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def chunks(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """All windows in order, so many at once as memory allows."""
        size = max(1, AT_ONCE // (self.config.length * self.values.shape[1]))
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            yield rows, self.batch(rows.tolist())


def gaps_of(panel: Panel, steps: Int[np.ndarray, "n"], config: ImputeConfig, season: int, *, train: bool) -> Gaps:
    """Training: every window inside the part, hidden anew each time. Else: side by side, every step scored once."""
    length, first, end = config.length, int(steps[0]), int(steps[-1]) + 1
    places = phase(panel.times, panel.freq, season)
    if train:
        starts = np.arange(first, end - length + 1)
        counts = np.ones((len(starts), length), bool)
        return Gaps(starts, counts, panel.values, panel.mask, places, None, config)
    starts = np.arange(first, end - length + 1, length)
    counts = np.ones((len(starts), length), bool)
    rest = (end - first) % length
    if rest:
        starts, counts = np.append(starts, end - length), np.vstack([counts, np.arange(length) >= length - rest])
    away = np.zeros(panel.mask.shape, bool)
    random = np.random.default_rng([config.hide_seed, first])
    away[first:end] = hidden((end - first, panel.mask.shape[1]), config, random)
    return Gaps(starts, counts, panel.values, panel.mask, places, away, config)
