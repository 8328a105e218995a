"""Look-backs of watched series, channel by channel, in units of each channel's own training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from domains.task import Batch, Part

from .records import Record


def standardised(record: Record) -> tuple[Float[np.ndarray, "T V"], Bool[np.ndarray, "T V"]]:
    """Values less the mean over the deviation of the training steps, 0 where missing; and which were seen."""
    seen = np.isfinite(record.values)
    own = np.where(seen[: record.train], record.values[: record.train], np.nan)
    count = np.maximum(seen[: record.train].sum(0), 1)
    mean = np.nan_to_num(np.nansum(own, 0) / count)
    std = np.sqrt(np.nansum((own - mean) ** 2, 0) / count)
    z = (np.where(seen, record.values, mean) - mean) / np.where(std > 1e-12, std, 1.0)
    return np.clip(z, -1e6, 1e6), seen


@dataclass(frozen=True)
class LookBacks:
    """Windows of ``lookback`` steps and the step after each: rows of ``places`` are (record, channel, step)."""

    values: tuple[Float[np.ndarray, "_ _"], ...]
    seen: tuple[Bool[np.ndarray, "_ _"], ...]
    places: Int64[np.ndarray, "n 3"]
    lookback: int

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int]) -> Batch:
        """ "past" and "seen" (B, L), "next" and "known" (B,)."""
        rows = self.places[np.asarray(indices, np.int64)]
        steps = rows[:, 2:] + np.arange(-self.lookback, 1)
        flat = self._starts[rows[:, 0]][:, None] + steps * self._widths[rows[:, 0]][:, None] + rows[:, 1:2]
        values, seen = (torch.from_numpy(array[flat]) for array in self._flat)
        return {"past": values[:, :-1], "seen": seen[:, :-1], "next": values[:, -1], "known": seen[:, -1]}

    @cached_property
    def _flat(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.concatenate([v.ravel() for v in self.values]).astype(np.float32),
            np.concatenate([s.ravel() for s in self.seen]),
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([v.size for v in self.values])[:-1]]).astype(np.int64)

    @cached_property
    def _widths(self) -> np.ndarray:
        return np.array([v.shape[1] for v in self.values], np.int64)


def look_backs(records: Sequence[Record], lookback: int, part: Part | None = None) -> LookBacks:
    """Windows whose next step is in a part; all windows where none is named."""
    both = [standardised(r) for r in records]
    places = []
    for i, r in enumerate(records):
        first, last = {"train": (0, r.train), "val": (r.train, r.known), "test": (r.known, len(r)), None: (0, len(r))}[
            part
        ]
        steps = np.arange(max(first, lookback), last)
        for v in range(r.values.shape[1]):
            places.append(np.column_stack([np.full(len(steps), i), np.full(len(steps), v), steps]))
    return LookBacks(
        tuple(z for z, _ in both), tuple(s for _, s in both), np.concatenate(places).astype(np.int64), lookback
    )
