"""The options of timeseries/traffic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..config import ForecastConfig


class TrafficConfig(ForecastConfig):
    """As for forecasts; sensors stand on a road graph, on a grid of cells, or are only named."""

    lookback: int = Field(12, ge=2)
    horizon: int = Field(12, ge=1)
    loss: Literal["mse", "mae", "huber"] = "mae"
    ets_origins: int = Field(0, ge=0)
    adjacency: str | None = Field(
        None,
        description="CSV: a square matrix in the order of the series, or from,to,weight by name",
    )
    directed: bool = Field(False, description="consent to an adjacency that is not symmetric")
    grid: tuple[int, ...] = Field((), description="rows and columns of cells, where the series are cells in that order")
