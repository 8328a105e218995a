"""A forecaster as a function of plain tensors, for export."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..task import Fitted, Portable
from .model import Forecaster


class PlainForecaster(nn.Module):
    """Look-back in original units, NaN where missing -> forecast in original units. Without covariates."""

    def __init__(self, model: Forecaster) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, past: Float[Tensor, "B L V"], phase: Int[Tensor, "B"], calendar: Float[Tensor, "B n 8"]
    ) -> Float[Tensor, "B H V"]:
        mask = ~past.isnan()
        b, n = calendar.shape[:2]
        empty = past.new_zeros(b, n, 1, 0)
        batch = {
            "past": past.nan_to_num(0.0),
            "past_mask": mask,
            "phase": phase,
            "calendar": calendar,
            "covariates": empty[:, : past.shape[1]],
            "known": empty,
        }
        return self.model.original(self.model(batch))


def portable(model: Forecaster, fitted: Fitted) -> Portable | None:
    """None where the model needs covariates, whose layout only a table can tell."""
    if len(fitted["past_mean"]) or len(fitted["future_mean"]):
        return None
    series, steps = len(fitted["names"]), model.lookback + model.horizon
    past = model.mean + model.std * torch.randn(2, model.lookback, series, dtype=torch.float64)
    calendar = torch.zeros(2, steps, 8)
    names = ", ".join(str(name) for name in fitted["names"])
    return Portable(
        PlainForecaster(model),
        (past, torch.tensor([0, 1]), calendar),
        {
            "past": f"(batch, look-back, series) in original units, NaN where missing; series: {names}",
            "phase": "(batch,) place of the first step ahead in the season of the model",
            "calendar": "(batch, look-back + horizon, 8) calendar features as domains.timeseries.grid makes them",
        },
        {"forecast": "(batch, horizon, series) in original units"},
    )
