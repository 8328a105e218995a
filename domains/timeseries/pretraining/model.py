"""The pretrained model: every window standardised by its own look-back, segments told one after the other.

Shapes: B windows, L look-back, F steps behind it, H horizon.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from domains.task import Batch, Fitted
from shared_backbones.errors import unknown
from shared_backbones.presets import Preset

from ..model import head_options
from ..segments import SegmentResidual, standardised


class Pretrained(nn.Module):
    """Look-backs of single series -> the steps ahead, as many as asked. Its parts are named as in a forecaster."""

    def __init__(self, fitted: Fitted, preset: Preset) -> None:
        super().__init__()
        if preset.stem != "segments":
            raise unknown("stem of timeseries/pretrain", preset.stem, ("segments",))
        head_options(preset.model)
        self.lookback, self.horizon = int(fitted["lookback"]), int(fitted["horizon"])
        self.residual = SegmentResidual(preset, self.lookback, self.horizon)

    def next_segments(self, batch: Batch) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """What is told to follow each whole segment of the look-back, what did, and where that is known."""
        z, _, _ = standardised(batch["x"], batch["seen"], self.lookback)
        segment = self.residual.segment
        short = max(0, self.lookback + segment - z.shape[1])
        z, seen = (F.pad(t, (0, short)) for t in (z, batch["seen"]))
        whole = self.lookback // segment * segment
        first = self.lookback - whole
        told = self.residual.following(z[:, first : self.lookback]).flatten(1)
        after = slice(first + segment, self.lookback + segment)
        return told, z[:, after], seen[:, after]

    def forward(self, batch: Batch, steps: int | None = None) -> Float[Tensor, "B H"]:
        """The next ``steps`` (default: the horizon) steps, in the units of the batch."""
        x, seen = (batch[name][:, : self.lookback] for name in ("x", "seen"))
        return self.residual.rollout(x, seen, self.horizon if steps is None else steps)


def told_by(model: Pretrained, batch: Batch, steps: int) -> Float[Tensor, "B H"]:
    """Evaluation mode, no gradients."""
    was = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        out = model({k: v.to(device) for k, v in batch.items()}, steps).cpu()
    model.train(was)
    return out
