"""A classifier of regular or gridded series as a function of plain tensors, for export."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.task import Fitted, Portable

from .model import SeriesClassifier


class PlainClassifier(nn.Module):
    """Series in original units, NaN where missing, and static features -> log-odds of the classes."""

    def __init__(self, model: SeriesClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, series: Float[Tensor, "B T V"], static: Float[Tensor, "B S"]) -> Float[Tensor, "B K"]:
        batch = {"x": series.nan_to_num(0.0), "seen": ~series.isnan(), "static": static}
        return self.model.correction(batch) / self.model.temperature


def portable(model: SeriesClassifier, fitted: Fitted) -> Portable | None:
    """None for light curves as observed, and where a ridge on fixed features is part of the model."""
    if not fitted["regular"] or model.options.skip != "none":
        return None
    mean, std = model.mean.float(), model.std.float()
    series = mean + std * torch.randn(2, int(fitted["length"]), len(fitted["channels"]))
    channels = ", ".join(fitted["channels"])
    return Portable(
        PlainClassifier(model),
        (series, torch.zeros(2, len(fitted["static_mean"]))),
        {
            "series": f"(batch, steps, channels) in original units, NaN where missing; channels: {channels}",
            "static": f"(batch, {len(fitted['static_mean'])}) static features in original units",
        },
        {"log_odds": f"(batch, classes): {', '.join(fitted['classes'])}"},
    )
