"""Batches of objects of any lengths, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from domains.task import Batch

from .collection import BAND, ERROR, TIME, VALUE, Objects


def filled(series: Float[np.ndarray, "T V"]) -> Float[np.ndarray, "T V"]:
    """Gaps closed by straight lines, ends by the nearest value; a channel without any value is 0."""
    if not np.isnan(series).any():
        return series
    out, t = np.zeros_like(series), np.arange(len(series))
    for v in range(series.shape[1]):
        seen = np.isfinite(series[:, v])
        if seen.any():
            out[:, v] = np.interp(t, t[seen], series[seen, v])
    return out


@dataclass(frozen=True)
class ObjectItems:
    """Objects of one part; ``targets`` are places among the classes of the training."""

    data: Objects
    rows: Int64[np.ndarray, "n"]
    targets: Int64[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Regular: "x" (B, T, V) with gaps filled, "seen" (B, T, V). Light curves: "time", "value", "error", "band",
        "seen", each (B, N), and "period" (B,). Both: "length", "features", "static" and, where known, "target"."""
        at = [int(self.rows[i]) for i in indices]
        series = [self.data.series[i] for i in at]
        size = max(len(s) for s in series)
        batch = {
            "length": torch.tensor([len(s) for s in series]),
            "static": torch.from_numpy(self.data.static[at]).float(),
            "features": torch.from_numpy(self.data.features[at]).float() if len(self.data.features) else
            torch.zeros(len(at), 0),
        }  # fmt: skip
        batch |= self._regular(series, size) if self.data.regular else self._curves(series, size)
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[list(indices)])
        return batch

    def _regular(self, series: list[np.ndarray], size: int) -> dict[str, torch.Tensor]:
        x = torch.zeros(len(series), size, len(self.data.channels))
        seen = torch.zeros(x.shape, dtype=torch.bool)
        for row, mask, s in zip(x, seen, series, strict=True):
            row[: len(s)] = torch.from_numpy(filled(s))
            mask[: len(s)] = torch.from_numpy(np.isfinite(s))
        return {"x": x, "seen": seen}

    def _curves(self, series: list[np.ndarray], size: int) -> dict[str, torch.Tensor]:
        table = torch.zeros(len(series), size, 4, dtype=torch.float64)
        seen = torch.zeros(len(series), size, dtype=torch.bool)
        for row, mask, s in zip(table, seen, series, strict=True):
            row[: len(s)] = torch.from_numpy(s)
            row[: len(s), TIME] -= s[0, TIME]  # what the clock said when it began means nothing
            mask[: len(s)] = True
        return {
            "time": table[..., TIME], "value": table[..., VALUE], "error": table[..., ERROR].float(),
            "band": table[..., BAND].long(), "seen": seen,
        }  # fmt: skip

    def by_length(self, numbers: int) -> Iterator[list[int]]:
        """Indices of all items in batches of like length, none with more than ``numbers`` places in all."""
        lengths = self.data.lengths[self.rows]
        batch: list[int] = []
        for i in np.argsort(lengths, kind="stable"):
            if batch and lengths[i] * (len(batch) + 1) > numbers:
                yield batch
                batch = []
            batch.append(int(i))
        if batch:
            yield batch
