"""Windows over a panel as batches of tensors, gathered by index.

B windows, L look-back, H horizon, V series, W 1 or V, P past and F future covariates. All values are in original
units; 0 stands at missing places and the masks say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from domains.task import Batch

from .data import Panel
from .grid import calendar, phase

CHUNK_ELEMENTS = 4_000_000  # numbers held at once while scoring, whatever the panel's size


@dataclass(frozen=True)
class Windows:
    """Examples of one part: see :class:`domains.task.Items`."""

    origins: Int[np.ndarray, "n"]
    lookback: int
    horizon: int
    values: Float[np.ndarray, "T V"]
    mask: Bool[np.ndarray, "T V"]
    phase: Int[np.ndarray, "T"]
    calendar: Float[np.ndarray, "T 8"]
    past: Float[np.ndarray, "T W P"]
    future: Float[np.ndarray, "T W2 F"]

    def __len__(self) -> int:
        return len(self.origins)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Windows by their place in ``origins``.

        Raises IndexError outside. "past" (B, L, V) and "future" (B, H, V) with their masks; "phase" (B,): the origin's
        place in the season; "calendar" (B, L + H, 8); "covariates" (B, L, W, P) and "known" (B, L + H, W, F).
        """
        at = self.origins[np.asarray(indices, dtype=np.int64)]
        back, ahead = at[:, None] + np.arange(-self.lookback, 0), at[:, None] + np.arange(self.horizon)
        both = np.concatenate([back, ahead], 1)
        arrays = {
            "past": self.values[back],
            "past_mask": self.mask[back],
            "future": self.values[ahead],
            "future_mask": self.mask[ahead],
            "phase": self.phase[at],
            "calendar": self.calendar[both],
            "covariates": self.past[back],
            "known": self.future[both],
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def chunks(self, per_window: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """All windows in order, in batches that hold at most CHUNK_ELEMENTS numbers of ``per_window`` each."""
        size = max(1, CHUNK_ELEMENTS // max(1, per_window))
        for start in range(0, len(self), size):
            places = np.arange(start, min(start + size, len(self)))
            yield places, self.batch(places.tolist())

    @property
    def per_window(self) -> int:
        """Numbers in one window and its forecast."""
        return (self.lookback + 2 * self.horizon) * self.values.shape[1]


def windows(panel: Panel, at: Int[np.ndarray, "n"], lookback: int, horizon: int, season: int) -> Windows:
    """Windows of a panel with the given origins. Targets behind the panel's end are missing, not read."""
    short = max(0, int(at.max(initial=0)) + horizon - len(panel.times)) if len(at) else 0
    pad = lambda a, fill: np.concatenate([a, np.full((short, *a.shape[1:]), fill, a.dtype)]) if short else a  # noqa: E731
    times = panel.times
    if short:
        from .grid import future

        times = np.concatenate([times, future(times[-1], panel.freq, short)])
    return Windows(
        at, lookback, horizon, pad(np.where(panel.mask, panel.values, 0.0), 0.0), pad(panel.mask, False),
        phase(times, panel.freq, season), calendar(times), pad(panel.past, np.nan), pad(panel.future, np.nan),
    )  # fmt: skip


def rows(
    source: Windows, places: Int[np.ndarray, "n"], series: int, mean: float, std: float
) -> tuple[Float[np.ndarray, "n L"], Bool[np.ndarray, "n L"], Float[np.ndarray, "n H"], Bool[np.ndarray, "n H"]]:
    """Look-backs and targets of one series, z-scored, with masks; missing places are 0."""
    at = source.origins[places]
    scaled = np.where(source.mask[:, series], (source.values[:, series] - mean) / std, 0.0)
    back, ahead = at[:, None] + np.arange(-source.lookback, 0), at[:, None] + np.arange(source.horizon)
    return scaled[back], source.mask[back, series], scaled[ahead], source.mask[ahead, series]


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}
